"""The LLaVA family: loss, generation, parts and digests on a small folder with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_cvit.backbones import tiny
from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.backbones.llava import Llava
from lit_cvit.backbones.tiny import Tiny
from lit_cvit.data.tasks import Batch, Sample


def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def grads(backbone: Llava) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad()
    return found


@pytest.mark.parametrize("chosen", [slice(None), slice(1, 5, 3)], ids=["mixed", "text only"])
def test_loss_equals_the_loss_over_all_logits_in_value_and_gradients(
    llava_folder: Path, samples: list[Sample], chosen: slice
) -> None:
    backbone = Llava(str(llava_folder)).load()
    backbone.model.requires_grad_(True)
    batch = backbone.encode(samples[chosen], with_answers=True)
    assert batch.answer_mask is not None
    labels = batch.inputs["input_ids"].masked_fill(~batch.answer_mask, -100)
    logits = backbone.model(**batch.inputs).logits[:, :-1]
    full = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=-100
    ).view(len(batch), -1)
    full.sum().backward()
    expected = grads(backbone)

    result = backbone.loss(batch)
    result.loss_sum.backward()
    actual = grads(backbone)

    torch.testing.assert_close(result.loss_sum, full.sum())
    assert result.num_tokens == int(batch.answer_mask.sum())
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_loss_does_not_depend_on_the_side_of_the_padding(llava: Llava, samples: list[Sample]) -> None:
    batch = llava.encode(samples, with_answers=True)
    assert batch.answer_mask is not None
    lengths = batch.inputs["attention_mask"].sum(1)
    width = batch.answer_mask.shape[1]

    def shift(rows: torch.Tensor) -> torch.Tensor:
        pairs = zip(rows, lengths.tolist(), strict=True)
        return torch.stack([row.roll(width - length) for row, length in pairs])

    left = Batch(
        inputs={n: v if n == "pixel_values" else shift(v) for n, v in batch.inputs.items()},
        answer_mask=shift(batch.answer_mask),
        prompt_mask=shift(batch.prompt_mask),
        image_rows=batch.image_rows,
        samples=batch.samples,
    )
    logits = llava.answer_logits(batch).logits
    torch.testing.assert_close(llava.answer_logits(left).logits, logits)
    single = [llava.answer_logits(llava.encode([s], with_answers=True)).logits for s in samples]
    torch.testing.assert_close(torch.cat(single), logits)


def test_positions_count_from_the_first_token_whatever_the_padding(
    llava: Llava, samples: list[Sample]
) -> None:
    batch = llava.encode(samples, with_answers=False)
    seen: list[torch.Tensor] = []
    hook = llava.language_model.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["position_ids"]), with_kwargs=True
    )
    llava.forward_hidden(batch)
    hook.remove()
    for positions, mask in zip(seen[0], batch.inputs["attention_mask"].bool(), strict=True):
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def test_batched_generation_equals_one_by_one(llava: Llava, samples: list[Sample]) -> None:
    together = llava.generate(llava.encode(samples, with_answers=False), max_new_tokens=16)
    alone = [llava.generate(llava.encode([s], with_answers=False), max_new_tokens=16)[0] for s in samples]
    assert together == alone
    assert len(set(together)) == len(samples)


def test_generation_is_the_argmax_of_the_logits_of_the_longer_and_longer_text(
    llava: Llava, samples: list[Sample]
) -> None:
    batch = llava.encode(samples[3:4], with_answers=False)
    ids = batch.inputs["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            logits = llava.model(input_ids=ids, pixel_values=batch.inputs["pixel_values"]).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    new = ids[:, batch.inputs["input_ids"].shape[1] :]
    assert llava.generate(batch, max_new_tokens=6) == llava.encoder.decode(new)


def test_generation_stops_at_the_end_token_in_each_row(llava_folder: Path, samples: list[Sample]) -> None:
    backbone = Llava(str(llava_folder)).load()
    batch = backbone.encode(samples, with_answers=False)
    before = backbone.generate(batch, max_new_tokens=8)
    hidden = backbone.forward_hidden(batch)[:, -1]
    first = int(backbone.head(hidden[0]).argmax())
    end = backbone.encoder.end_id
    head = backbone.model.lm_head.weight.data
    head[[first, end]] = head[[end, first]]
    after = backbone.generate(batch, max_new_tokens=8)
    assert after[0] == "" != before[0]
    assert any(after[1:])
    assert after == [
        backbone.generate(backbone.encode([s], with_answers=False), max_new_tokens=8)[0] for s in samples
    ]


def test_decoding_defaults_of_the_folder_do_not_leak_in(
    llava_folder: Path, llava: Llava, samples: list[Sample], tmp_path: Path
) -> None:
    folder = own(llava_folder, tmp_path)
    leak: dict[str, Any] = {
        "do_sample": True,
        "temperature": 5.0,
        "repetition_penalty": 9.0,
        "min_new_tokens": 12,
    }
    leak |= {"num_beams": 3, "no_repeat_ngram_size": 1, "suppress_tokens": list(range(4, 200))}
    (folder / "generation_config.json").write_text(json.dumps(leak))
    batch = llava.encode(samples, with_answers=False)
    ours = Llava(str(folder)).load().generate(batch, max_new_tokens=10)
    assert ours == llava.generate(batch, max_new_tokens=10)


def test_batches_for_the_wrong_purpose_are_refused(llava: Llava, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="with_answers=False"):
        llava.generate(llava.encode(samples, with_answers=True), max_new_tokens=4)
    with pytest.raises(ValueError, match="with_answers=True"):
        llava.loss(llava.encode(samples, with_answers=False))


def test_image_features_are_the_patch_mean_that_the_projector_reads(
    llava: Llava, samples: list[Sample]
) -> None:
    batch = llava.encode(samples, with_answers=False)
    seen: list[torch.Tensor] = []
    hook = llava.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    llava.forward_hidden(batch)
    hook.remove()
    features = llava.image_features(batch)
    assert features.shape == (3, 64)
    assert torch.equal(features, seen[0].mean(1))
    assert llava.image_features(llava.encode(samples[1:2], with_answers=False)).shape == (0, 64)


def test_linear_targets_have_names_of_our_own(llava: Llava) -> None:
    targets = llava.linear_targets(["projector", "ffn"])
    assert list(targets) == [
        *(f"decoder.{i}.mlp.{part}_proj" for i in range(3) for part in ("gate", "up", "down")),
        "projector.linear_1",
        "projector.linear_2",
    ]
    assert targets["decoder.2.mlp.up_proj"] == ("model.language_model.layers.2.mlp.up_proj", "decoder")
    assert targets["projector.linear_1"] == ("model.multi_modal_projector.linear_1", "projector")
    assert list(llava.linear_targets({"attention"}))[:4] == [
        f"decoder.0.self_attn.{part}_proj" for part in "qkvo"
    ]
    assert all(isinstance(llava.model.get_submodule(t.path), nn.Linear) for t in targets.values())


def test_an_unknown_group_of_layers_names_the_nearest(llava: Llava) -> None:
    with pytest.raises(ValueError, match=r"'atention'\. Did you mean 'attention'\?"):
        llava.linear_targets(["atention"])


def test_parts_have_the_same_names_in_every_family(llava: Llava) -> None:
    assert len(llava.decoder_layers) == 3
    assert llava.hidden_size == 64
    assert llava.decoder_layers[0] is llava.language_model.get_submodule("layers.0")
    assert llava.vision_tower is llava.model.get_encoder("image")
    assert llava.num_image_tokens == 16


def test_everything_is_frozen_and_dropout_free_also_in_training_mode(
    llava_folder: Path, llava: Llava, samples: list[Sample], tmp_path: Path
) -> None:
    folder = own(llava_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = config["vision_config"]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    backbone = Llava(str(folder)).load().train()
    assert not any(p.requires_grad for p in backbone.parameters())
    batch = backbone.encode(samples, with_answers=True)
    assert torch.equal(backbone.answer_logits(batch).logits, llava.answer_logits(batch).logits)


def test_loading_twice_keeps_the_model(llava_folder: Path) -> None:
    backbone = Llava(str(llava_folder)).load()
    model = backbone.model
    assert backbone.load().model is model


def test_frozen_digest_changes_if_and_only_if_a_frozen_weight_changes(
    llava_folder: Path, samples: list[Sample]
) -> None:
    backbone = Llava(str(llava_folder)).load()
    digest = backbone.digest_frozen()
    backbone.loss(backbone.encode(samples, with_answers=True))
    assert backbone.digest_frozen() == digest == Llava(str(llava_folder)).load().digest_frozen()

    mlp = backbone.decoder_layers[0].get_submodule("mlp")
    mlp.gate_proj = nn.Sequential(mlp.get_submodule("gate_proj"), nn.Linear(128, 128))
    assert backbone.digest_frozen() == digest

    bias = backbone.projector.get_parameter("linear_1.bias").requires_grad_(True)
    trains = backbone.digest_frozen()
    bias.data[0] += 1
    assert backbone.digest_frozen() == trains
    without = backbone.digest_frozen(exclude=[backbone.projector_path])

    tower = backbone.vision_tower.get_parameter("encoder.layers.0.mlp.fc1.bias")
    tower.data[0] = torch.nextafter(tower.data[0], torch.tensor(1.0))
    assert backbone.digest_frozen() != trains
    assert backbone.digest_frozen(exclude=[backbone.vision_path]) != without


def test_description_names_the_files_by_content(llava_folder: Path, tmp_path: Path) -> None:
    reported = Llava(str(llava_folder)).describe()
    assert {k: reported[k] for k in ("class", "source", "quantization", "dtype")} == {
        "class": "Llava",
        "source": "folder",
        "quantization": "none",
        "dtype": "float32",
    }
    folder = own(llava_folder, tmp_path)
    assert Llava(str(folder)).describe()["digest"] == reported["digest"]
    weights = load_file(folder / "model.safetensors")
    weights["multi_modal_projector.linear_1.bias"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert Llava(str(folder)).describe()["digest"] != reported["digest"]


def test_missing_weights_are_an_error_not_random_numbers(llava_folder: Path, tmp_path: Path) -> None:
    folder = own(llava_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["multi_modal_projector.linear_1.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights.*multi_modal_projector\.linear_1\.bias"):
        Llava(str(folder)).load()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./no_such_folder", "name_or_path './no_such_folder' is not an existing folder"),
        ("somebody/some-model", "name_or_path 'somebody/some-model'.*Ways to get it"),
    ],
)
def test_a_missing_model_names_the_option_and_the_ways_to_get_it(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Llava(name).load()


def test_an_incomplete_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="folder is not complete"):
        Llava(str(tmp_path)).load()


def test_a_folder_without_its_processor_is_an_error(llava_folder: Path, tmp_path: Path) -> None:
    folder = own(llava_folder, tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="lacks files of its image processor"):
        _ = Llava(str(folder)).encoder


def test_a_folder_of_another_family_is_an_error(llava_folder: Path, tmp_path: Path) -> None:
    folder = own(llava_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llava_next"}))
    with pytest.raises(ValueError, match="Llava takes models of type llava;.*'llava_next'"):
        Llava(str(folder)).load()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"quantization": "nf3"}, "quantization must be one of none, nf4, int8; got 'nf3'"),
        ({"dtype": "half"}, "dtype must be one of float32, bfloat16, float16; got 'half'"),
    ],
)
def test_an_unknown_setting_lists_the_allowed_ones(
    llava_folder: Path, setting: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Llava(str(llava_folder), **setting).load()


def test_tiny_without_its_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "WEIGHTS", tmp_path / "tiny_weights")
    with pytest.raises(ValueError, match="'tiny_weights'.*install the package again"):
        Tiny().load()


def test_bfloat16_weights_take_float32_images(llava_folder: Path, samples: list[Sample]) -> None:
    backbone = Llava(str(llava_folder), dtype="bfloat16").load()
    result = backbone.loss(backbone.encode(samples, with_answers=True))
    assert backbone.projector.get_parameter("linear_1.weight").dtype == torch.bfloat16
    assert result.loss_sum.dtype == torch.float32
    assert bool(result.loss_sum.isfinite())


def test_a_built_folder_may_have_a_tower_of_its_own_size(tmp_path: Path, samples: list[Sample]) -> None:
    backbone = Llava(str(build_llava_folder(tmp_path, num_layers=2, tower=(32, 1)))).load()
    vision = backbone.config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers) == (32, 1)
    assert (backbone.hidden_size, len(backbone.decoder_layers)) == (64, 2)
    batch = backbone.encode(samples, with_answers=False)
    assert backbone.image_features(batch).shape[1] == 32
    assert backbone.forward_hidden(batch).shape == (*batch.prompt_mask.shape, 64)
