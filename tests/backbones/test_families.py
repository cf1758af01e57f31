"""The contract of a backbone, held against every family: small models with random weights, seconds in all."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import PIL.ImageFile
import pytest
import torch
from family_kit import FAMILIES, Family, Noise
from torch import Tensor, nn

from lit_cvit.adapters import (
    LoRABank,
    ProjectorBank,
    RoutingContext,
    Target,
    adapter_state,
    checkpoint_context_fn,
    inject,
    load_adapter_state,
    routing,
)
from lit_cvit.backbones import Backbone
from lit_cvit.backbones.dynamic import DynamicBackbone
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import Batch, Sample

SAMPLES = [
    Sample("wide", "VQA", "What colour is the square?", "Answer briefly.", ("red",), Noise(0)),
    Sample("text", "QA", "Which of these is a planet? " * 3, "", ("Mars is one.",)),
    Sample("tall", "Caption", "", "Describe the image.", ("a caf\u00e9\nand a sign",), Noise(1, 20, 60)),
    Sample("turns", "Chat", "Q2", "", ("A2",), Noise(2, 90, 80), history=(("Q1", "A1"),)),
]
GROUPS = {"decoder": ["ffn", "attention"], "projector": ["projector"]}


class Built(NamedTuple):
    """A family and the folder of its small model."""

    family: Family
    folder: Path

    def load(self, **settings: object) -> Backbone:
        return self.family.backbone(str(self.folder), **{**self.family.settings, **settings}).load()


@pytest.fixture(scope="module", params=FAMILIES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param].build(folder)
    return Built(FAMILIES[request.param], folder)


@pytest.fixture(scope="module")
def backbone(built: Built) -> Backbone:
    """Loaded in float32; tests that change it load their own."""
    return built.load()


def logits(backbone: Backbone, samples: list[Sample] = SAMPLES) -> Tensor:
    return backbone.answer_logits(backbone.encode(samples, with_answers=True)).logits


def adapt(backbone: Backbone, groups: list[str], *, seed: int = 0) -> dict[str, LoRABank]:
    """Two blocks on every layer of the groups, whose outputs differ clearly from zero."""
    generator = torch.Generator().manual_seed(seed)
    targets = {n: Target(t.path, t.kind) for n, t in backbone.linear_targets(groups).items()}
    banks = inject(backbone.model, targets, lambda name, target, base: LoRABank(base, name, kind=target.kind))
    for bank in banks.values():
        for index in range(2):
            bank.add_block(2, generator)
            nn.init.normal_(bank.block(index).B, std=0.3, generator=generator)
    return banks


def routed(backbone: Backbone, batch: Batch, gate: list[list[float]], **facts: Tensor) -> Iterator[Tensor]:
    """The answer logits of each sample under a gate for each sample."""
    context = RoutingContext(
        len(batch),
        gate=torch.tensor(gate),
        facts=facts,
        row_to_sample=backbone.row_maps(batch),
        prompt_mask=batch.prompt_mask,
    )
    with routing(context), torch.no_grad():
        found = backbone.answer_logits(batch)
    return (found.logits[found.rows == row] for row in range(len(batch)))


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.compat
def test_parts_are_found_and_named_alike(built: Built, backbone: Backbone) -> None:
    assert backbone.vision_tower is backbone.model.get_encoder("image")
    assert backbone.language_model is backbone.model.get_decoder()
    assert len(backbone.decoder_layers) == backbone.config.get_text_config().num_hidden_layers
    assert backbone.hidden_size == 64
    assert tuple(backbone.linear_targets(["projector"])) == built.family.projector
    for group, parts in (("ffn", ["gate", "up", "down"]), ("attention", ["q", "k", "v", "o"])):
        found = list(backbone.linear_targets([group]))
        assert [name.rpartition(".")[2] for name in found] == [f"{part}_proj" for part in parts] * (
            len(found) // len(parts)
        )
        assert len(found) == len(parts) * len(backbone.decoder_layers)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# -- prompts and batches -----------------------------------------------------------------------------------


def test_the_answer_mask_marks_the_answers_and_their_ends(backbone: Backbone) -> None:
    batch = backbone.encode(SAMPLES, with_answers=True)
    assert batch.answer_mask is not None
    chat, ids = backbone.chat_format, batch.inputs["input_ids"]
    answers = [["red"], ["Mars is one."], ["a caf\u00e9\nand a sign"], ["A1", "A2"]]
    for row, expected in enumerate(answers):
        marked = backbone.tokenizer.decode(ids[row][batch.answer_mask[row]])
        assert marked == "".join(f"{chat.lead}{answer}{chat.end}" for answer in expected)
        prompt = backbone.tokenizer.decode(ids[row][batch.prompt_mask[row]])
        assert not any(answer in prompt for answer in expected)


def test_images_of_every_size_take_the_positions_that_were_counted(backbone: Backbone) -> None:
    # The models refuse features that do not fill their positions exactly.
    for width, height in ((32, 32), (33, 31), (64, 32), (31, 95), (100, 37), (7, 50), (300, 280)):
        sample = replace(SAMPLES[0], image=Noise(3, width, height))
        batch = backbone.encode([sample], with_answers=False)
        assert backbone.prompt_length(sample) == batch.inputs["input_ids"].shape[1]
        backbone.forward_hidden(batch)


def test_a_split_is_measured_off_the_headers_of_its_files_each_opened_once(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"wide.png": (64, 32), "tall.jpg": (31, 95), "large.png": (300, 280)}
    for name, (width, height) in sizes.items():
        Noise(0, width, height).open().save(tmp_path / name)
    blind, turns = replace(SAMPLES[0], image=None), SAMPLES[3]
    samples = [replace(turns, image=FileImage(tmp_path, name)) for name in sizes for _ in range(2)]
    samples[2:2] = [blind]
    expected = [backbone.encode([s], with_answers=False).inputs["input_ids"].shape[1] for s in samples]

    opened: list[str] = []
    real = PIL.Image.open

    def counted(path: Path, **settings: object) -> PIL.Image.Image:
        opened.append(path.name)
        return real(path, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(PIL.Image, "open", counted)
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", None)
    assert backbone.encoder.prompt_lengths(samples) == expected
    assert opened == (list(sizes) if isinstance(backbone, DynamicBackbone) else [])


def test_the_digest_of_an_encoder_covers_the_largest_resolution(built: Built) -> None:
    def digest(**settings: int) -> str:
        return built.family.backbone(
            str(built.folder), **{**built.family.settings, **settings}
        ).encoder.digest()

    limits = {"max_pixels": 4096, "max_tiles": 2}
    for name in limits.keys() & built.family.settings.keys():
        assert digest() == digest()
        assert digest(**{name: limits[name]}) != digest()


def test_answer_tokens_are_those_of_the_batch_and_open_no_image(backbone: Backbone) -> None:
    class Unreadable:
        def open(self) -> None:
            raise AssertionError("opened")

    blind = [replace(s, image=Unreadable() if s.image else None) for s in SAMPLES]  # type: ignore[arg-type]
    batch = backbone.encode(SAMPLES, with_answers=True)
    assert batch.answer_mask is not None
    assert backbone.encoder.answer_tokens(blind) == batch.answer_mask.sum(1).tolist()


def test_the_encoder_works_in_another_process(backbone: Backbone) -> None:
    ours = backbone.encode(SAMPLES, with_answers=True).inputs
    theirs = pickle.loads(pickle.dumps(backbone.encoder)).encode(SAMPLES, with_answers=True).inputs
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- loss and generation -----------------------------------------------------------------------------------


@pytest.mark.compat
def test_the_loss_is_transformers_own_loss_over_the_answers(backbone: Backbone) -> None:
    batch = backbone.encode(SAMPLES, with_answers=True)
    assert batch.answer_mask is not None
    labels = batch.inputs["input_ids"].masked_fill(~batch.answer_mask, -100)
    full = backbone.model(**backbone._model_inputs(batch), labels=labels, use_cache=False).loss
    ours = backbone.loss(batch)
    torch.testing.assert_close(ours.loss_sum, full * ours.num_tokens)
    alone = [backbone.loss(backbone.encode([s], with_answers=True)).loss_sum for s in SAMPLES]
    torch.testing.assert_close(ours.loss_sum, torch.stack(alone).sum())


def test_batched_generation_equals_one_by_one_and_teacher_forcing(backbone: Backbone) -> None:
    together = backbone.generate(backbone.encode(SAMPLES, with_answers=False), max_new_tokens=6)
    alone = [
        backbone.generate(backbone.encode([s], with_answers=False), max_new_tokens=6)[0] for s in SAMPLES
    ]
    assert together == alone
    assert len(set(together)) == len(SAMPLES)
    # The hidden states of a left-padded prompt predict the first token that is generated.
    batch = backbone.encode(SAMPLES, with_answers=False)
    first = backbone.head(backbone.forward_hidden(batch)[:, -1]).argmax(-1)
    assert backbone.encoder.decode(first[:, None]) == backbone.generate(batch, max_new_tokens=1)


# -- rows of the projector ---------------------------------------------------------------------------------


def test_row_maps_count_the_rows_of_each_sample(built: Built, backbone: Backbone) -> None:
    wide, tall, large = built.family.rows
    rows = backbone.row_maps(backbone.encode(SAMPLES, with_answers=True))["projector"]
    assert rows.tolist() == [0] * wide + [2] * tall + [3] * large
    assert backbone.row_maps(backbone.encode(SAMPLES[1:2], with_answers=True))["projector"].tolist() == []


def test_image_features_are_the_mean_of_what_the_projector_reads(built: Built, backbone: Backbone) -> None:
    batch = backbone.encode(SAMPLES, with_answers=False)
    seen: list[Tensor] = []
    hook = backbone.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    backbone.forward_hidden(batch)
    hook.remove()
    features = backbone.image_features(batch)
    by_row = seen[0].unflatten(0, (sum(built.family.rows), -1))
    expected = [part.reshape(-1, features.shape[1]).mean(0) for part in by_row.split(built.family.rows)]
    torch.testing.assert_close(features, torch.stack(expected))
    none = backbone.image_features(backbone.encode(SAMPLES[1:2], with_answers=False))
    assert none.shape == (0, features.shape[1])


@pytest.mark.parametrize("part", GROUPS)
def test_an_adapter_gated_for_one_sample_changes_that_sample_alone(built: Built, part: str) -> None:
    backbone = built.load()
    adapt(backbone, GROUPS[part])
    batch = backbone.encode(SAMPLES, with_answers=True)
    before = list(routed(backbone, batch, [[0.0, 0.0]] * 4))
    for row in range(4):
        gate = [[0.0, 0.0] for _ in range(4)]
        gate[row] = [0.0, 1.0]
        changes = part == "decoder" or SAMPLES[row].image is not None
        for other, (old, new) in enumerate(zip(before, routed(backbone, batch, gate), strict=True)):
            if other == row and changes:
                assert (new - old).abs().max() > 1e-2
            else:
                assert torch.equal(old, new)


def test_a_projector_of_its_own_changes_its_sample_alone(built: Built) -> None:
    backbone = built.load()
    bank = ProjectorBank(backbone.projector)
    parent, _, leaf = backbone.projector_path.rpartition(".")
    setattr(backbone.model.get_submodule(parent), leaf, bank)
    bank.add()
    for parameter in bank.copies.parameters():
        parameter.data.mul_(-2.0)
    batch = backbone.encode(SAMPLES, with_answers=True)
    gate = [[0.0]] * 4
    before = list(routed(backbone, batch, gate, projector=torch.full((4,), -1)))
    for row in (0, 2, 3):
        keys = torch.full((4,), -1)
        keys[row] = 0
        for other, (old, new) in enumerate(
            zip(before, routed(backbone, batch, gate, projector=keys), strict=True)
        ):
            if other == row:
                assert (new - old).abs().max() > 1e-2
            else:
                torch.testing.assert_close(new, old)


def test_image_features_need_no_routing_of_an_adapted_projector(built: Built, backbone: Backbone) -> None:
    adapted = built.load()
    adapt(adapted, ["projector"])
    batch = backbone.encode(SAMPLES, with_answers=False)
    assert torch.equal(adapted.image_features(batch), backbone.image_features(batch))


# -- state -------------------------------------------------------------------------------------------------


def test_saved_adapters_give_a_fresh_model_the_same_logits(built: Built, tmp_path: Path) -> None:
    groups = ["ffn", "attention", "projector"]
    gate = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]]

    def run(backbone: Backbone) -> Tensor:
        return torch.cat(list(routed(backbone, backbone.encode(SAMPLES, with_answers=True), gate)))

    trained = built.load()
    banks = adapt(trained, groups)
    torch.save(adapter_state(banks), tmp_path / "state.pt")
    fresh = built.load()
    empty = adapt(fresh, groups, seed=1)
    assert not torch.equal(run(fresh), run(trained))
    load_adapter_state(empty, torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(run(fresh), run(trained))
    assert fresh.digest_frozen() == trained.digest_frozen()


def test_checkpointed_activations_leave_gradients_as_they_are(built: Built) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = built.load(activation_checkpointing=checkpointing)
        banks = adapt(backbone, ["ffn", "projector"])
        backbone.checkpoint_activations(checkpoint_context_fn)
        batch = backbone.encode(SAMPLES, with_answers=True)
        context = RoutingContext(4, gate=torch.ones(4, 2), row_to_sample=backbone.row_maps(batch))
        with routing(context):
            loss = backbone.loss(batch).loss_sum
        loss.backward()
        found.append([p.grad for bank in banks.values() for p in bank.parameters() if p.requires_grad])
    assert len(found[0]) == len(found[1]) > 0
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


# -- number types ----------------------------------------------------------------------------------------


def test_nf4_packs_the_decoder_alone_and_stays_the_same(built: Built, backbone: Backbone) -> None:
    packed = built.load(quantization="nf4")
    kinds = {
        path: type(module).__name__
        for path, module in packed.model.named_modules()
        if isinstance(module, nn.Linear)
    }
    in_decoder = {path for path in kinds if path.startswith(f"{packed.decoder_path}.")}
    assert {kinds[path] for path in in_decoder} == {"Linear4bit"}
    assert {kind for path, kind in kinds.items() if path not in in_decoder} == {"Linear"}
    digest = packed.digest_frozen()
    answers = packed.generate(packed.encode(SAMPLES, with_answers=False), max_new_tokens=3)
    assert answers == [
        packed.generate(packed.encode([s], with_answers=False), max_new_tokens=3)[0] for s in SAMPLES
    ]
    assert packed.digest_frozen() == digest != backbone.digest_frozen()
    assert (logits(packed) - logits(backbone)).abs().mean() < logits(backbone).std()


def test_bfloat16_weights_take_float32_images(built: Built) -> None:
    backbone = built.load(dtype="bfloat16")
    assert {p.dtype for p in backbone.projector.parameters()} == {torch.bfloat16}
    result = backbone.loss(backbone.encode(SAMPLES, with_answers=True))
    assert result.loss_sum.dtype == torch.float32
    assert bool(result.loss_sum.isfinite())
    assert backbone.image_features(backbone.encode(SAMPLES, with_answers=False)).dtype == torch.bfloat16
