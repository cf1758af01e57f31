"""A LLaVA put together from a Vicuna, a CLIP tower and a projector in the original LLaVA's format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from clip_kit import build_clip_folder
from family_kit import tokenizer
from torch import nn

from lit_cvit.__main__ import main
from lit_cvit.backbones.convert import read_projector
from lit_cvit.backbones.llava import Llava
from lit_cvit.data.tasks import Sample


class Parts(NamedTuple):
    """The folders and the file that are put together."""

    projector: Path
    language_model: Path
    vision_tower: Path

    def convert(self, out: Path, **changed: Path) -> int:
        named = {**self._asdict(), "out": out, **changed}
        return main(["convert", *(f"--{name}={value}" for name, value in named.items())])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    tokens = tokenizer(("<unk>", "<s>", "</s>"), begin="<s>", end="</s>", pad="<unk>")
    vicuna = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(tokens),
        dtype="float16",
    )
    transformers.LlamaForCausalLM(vicuna).half().save_pretrained(folder / "vicuna")
    tokens.save_pretrained(folder / "vicuna")
    clip = build_clip_folder(folder / "clip")
    width = transformers.CLIPConfig.from_pretrained(clip).vision_config.hidden_size
    layers = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 64)).bfloat16()
    stored = {f"model.mm_projector.{name}": value for name, value in layers.state_dict().items()}
    torch.save(stored, folder / "mm_projector.bin")
    return Parts(folder / "mm_projector.bin", folder / "vicuna", clip)


def test_every_weight_arrives_bit_for_bit(parts: Parts, samples: list[Sample], tmp_path: Path) -> None:
    assert parts.convert(tmp_path / "llava") == 0
    backbone = Llava(str(tmp_path / "llava")).load()
    stored = torch.load(parts.projector, weights_only=True)
    for ours, theirs in (("linear_1", "0"), ("linear_2", "2")):
        for name in ("weight", "bias"):
            value = backbone.projector.get_parameter(f"{ours}.{name}")
            assert torch.equal(value, stored[f"model.mm_projector.{theirs}.{name}"].float())
    vicuna = transformers.LlamaForCausalLM.from_pretrained(parts.language_model, dtype=torch.float32)
    known = vicuna.config.vocab_size
    for name, value in vicuna.model.state_dict().items():
        assert torch.equal(backbone.language_model.state_dict()[name][: len(value)], value)
    assert torch.equal(backbone.model.lm_head.weight[:known], vicuna.lm_head.weight)
    tower = transformers.CLIPVisionModel.from_pretrained(parts.vision_tower)
    assert all(torch.equal(backbone.vision_tower.state_dict()[n], v) for n, v in tower.state_dict().items())
    assert backbone.encoder.image_id == known
    assert len(backbone.generate(backbone.encode(samples, with_answers=False), max_new_tokens=2)) == 5


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"model.mm_projector.weight": torch.zeros(64, 8)}, "it holds model.mm_projector.weight"),
        ({}, "it holds nothing"),
    ],
)
def test_a_projector_of_another_kind_is_named_with_what_it_holds(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: dict[str, Any], words: str
) -> None:
    torch.save(stored, tmp_path / "other.bin")
    assert parts.convert(tmp_path / "out", projector=tmp_path / "other.bin") == 1
    assert words in error_of(capsys)


def test_parts_that_do_not_fit_are_named_with_their_widths(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(parts.projector, weights_only=True)
    stored["model.mm_projector.0.weight"] = torch.zeros(64, 7)
    torch.save(stored, tmp_path / "narrow.bin")
    assert parts.convert(tmp_path / "out", projector=tmp_path / "narrow.bin") == 1
    assert "linear_1.weight has shape (64, 7)" in error_of(capsys)


def test_missing_parts_and_a_full_folder_are_named(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parts.convert(tmp_path / "out", projector=tmp_path / "none.bin") == 1
    assert "none.bin cannot be read" in error_of(capsys)
    assert parts.convert(tmp_path / "out", language_model=tmp_path / "none") == 1
    assert "--language_model" in error_of(capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert parts.convert(tmp_path / "full") == 1
    assert "is not empty" in error_of(capsys)
    assert parts.convert(tmp_path / "full" / "file") == 1
    assert "is not empty" in error_of(capsys)


def test_weights_that_are_not_finite_are_refused_by_name(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(parts.projector, weights_only=True)
    stored["model.mm_projector.2.bias"][3] = torch.nan
    torch.save(stored, tmp_path / "nan.bin")
    assert parts.convert(tmp_path / "out", projector=tmp_path / "nan.bin") == 1
    assert "nan.bin: linear_2.bias holds numbers that are not finite" in error_of(capsys)
    for option, kind in (
        ("language_model", transformers.LlamaForCausalLM),
        ("vision_tower", transformers.CLIPVisionModel),
    ):
        folder = tmp_path / option
        shutil.copytree(getattr(parts, option), folder)
        model: Any = kind.from_pretrained(folder)
        next(p for name, p in model.named_parameters() if "layers.0" in name).data.view(-1)[0] = torch.inf
        model.save_pretrained(folder)
        assert parts.convert(tmp_path / "out", **{option: folder}) == 1
        message = error_of(capsys)
        assert f"--{option} {folder}: " in message
        assert "layers.0" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stored", [torch.zeros(2), [1], {"model.mm_projector.0.weight": 1}])
def test_a_file_that_holds_no_tensors_by_name_is_named(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"other\.bin must hold tensors by name"):
        read_projector(tmp_path / "other.bin")


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04", b"PK\x03\x04" * 500])
def test_a_file_that_torch_cannot_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "torn.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"torn\.bin cannot be read as .* kind; download or copy it again$"):
        read_projector(tmp_path / "torn.bin")
