"""4-bit and 8-bit backbones, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lit_cvit.backbones.llava import Llava
from lit_cvit.data.tasks import Sample


@pytest.fixture(scope="module")
def nf4(llava_folder: Path) -> Llava:
    return Llava(str(llava_folder), quantization="nf4").load()


def linear_classes(backbone: Llava) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, module in backbone.model.named_modules():
        if isinstance(module, nn.Linear):
            part = next(
                (p for p in (backbone.vision_path, backbone.projector_path) if path.startswith(p)), path
            )
            part = "decoder" if path.startswith(backbone.decoder_path) else part
            found.setdefault(part, set()).add(type(module).__name__)
    return found


@pytest.mark.parametrize(("quantization", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_only_the_decoders_linears_are_quantised(llava_folder: Path, quantization: str, kind: str) -> None:
    assert linear_classes(Llava(str(llava_folder), quantization=quantization).load()) == {  # type: ignore[arg-type]
        "model.vision_tower": {"Linear"},
        "model.multi_modal_projector": {"Linear"},
        "decoder": {kind},
        "lm_head": {"Linear"},
    }


@pytest.mark.compat
def test_nf4_loss_and_gradients_equal_those_of_the_dequantised_weights(
    nf4: Llava, llava_folder: Path, samples: list[Sample]
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    plain = Llava(str(llava_folder)).load()
    for target in nf4.linear_targets(["ffn", "attention"]).values():
        weight = nf4.model.get_submodule(target.path).weight
        plain.model.get_submodule(target.path).weight.data = dequantize_4bit(weight.data, weight.quant_state)
    results = []
    for backbone in (nf4, plain):
        weight = backbone.projector.get_parameter("linear_1.weight").requires_grad_(True)
        batch = backbone.encode(samples, with_answers=True)
        backbone.loss(batch).loss_sum.backward()
        results.append((backbone.answer_logits(batch).logits.detach(), weight.grad))
        weight.grad = None
        weight.requires_grad_(False)
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)


def test_nf4_batched_generation_equals_one_by_one(nf4: Llava, samples: list[Sample]) -> None:
    together = nf4.generate(nf4.encode(samples, with_answers=False), max_new_tokens=12)
    assert together == [
        nf4.generate(nf4.encode([s], with_answers=False), max_new_tokens=12)[0] for s in samples
    ]


@pytest.mark.compat
def test_generating_leaves_4_bit_weights_bit_identical(llava_folder: Path, samples: list[Sample]) -> None:
    backbone = Llava(str(llava_folder), quantization="nf4").load()
    before = backbone.digest_frozen()
    batch = backbone.encode(samples, with_answers=True)
    weight = backbone.projector.get_parameter("linear_1.weight").requires_grad_(True)
    loss = backbone.loss(batch).loss_sum
    weight.requires_grad_(False)
    backbone.generate(backbone.encode(samples, with_answers=False), max_new_tokens=4)
    assert torch.equal(backbone.loss(batch).loss_sum, loss)
    assert backbone.digest_frozen() == before


def test_4_bit_digest_covers_weights_and_scales(llava_folder: Path) -> None:
    backbone = Llava(str(llava_folder), quantization="nf4").load()
    digest = backbone.digest_frozen()
    weight = backbone.decoder_layers[1].get_parameter("mlp.down_proj.weight")
    weight.data[0] ^= 1
    assert backbone.digest_frozen() != digest
    weight.data[0] ^= 1
    assert backbone.digest_frozen() == digest
    weight.quant_state.absmax[0] ^= 1  # type: ignore[attr-defined]
    assert backbone.digest_frozen() != digest


@pytest.mark.compat
def test_int8_answers_and_stays_the_same(llava_folder: Path, llava: Llava, samples: list[Sample]) -> None:
    backbone = Llava(str(llava_folder), quantization="int8").load()
    before = backbone.digest_frozen()
    batch = backbone.encode(samples, with_answers=True)
    torch.testing.assert_close(backbone.loss(batch).loss_sum, llava.loss(batch).loss_sum, rtol=0.01, atol=0.0)
    answers = backbone.generate(backbone.encode(samples, with_answers=False), max_new_tokens=3)
    assert len(answers) == 5
    assert backbone.digest_frozen() == before


@pytest.mark.compat
def test_quantised_passes_say_nothing(
    llava_folder: Path,
    samples: list[Sample],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for quantization in ("nf4", "int8"):
        backbone = Llava(str(llava_folder), quantization=quantization).load()
        backbone.generate(backbone.encode(samples, with_answers=False), max_new_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
