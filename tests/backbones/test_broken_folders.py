"""A model folder of which a file is cut off, as after a broken download, is named in one message."""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_cvit.backbones import Backbone, Llava, Qwen2VL


def cut(folder: Path, copy: Path, name: str, share: float) -> Llava:
    """A backbone over a copy of a folder of which one file has lost its end."""
    shutil.copytree(folder, copy)
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: int(share * len(whole))])
    return Llava(str(copy))


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_weights_that_are_cut_off_are_an_error_that_names_the_folder(
    llava_folder: Path, tmp_path: Path, share: float
) -> None:
    backbone = cut(llava_folder, tmp_path / "cut", "model.safetensors", share)
    with pytest.raises(ValueError, match=r"cut/model\.safetensors: cut off or broken \(.*; download or"):
        backbone.load()


def test_a_config_that_is_cut_off_is_an_error_that_names_the_folder(
    llava_folder: Path, tmp_path: Path
) -> None:
    backbone = cut(llava_folder, tmp_path / "cut", "config.json", 0.5)
    with pytest.raises(ValueError, match=r"cut/config\.json: not a valid JSON file"):
        backbone.load()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_processor_that_is_cut_off_is_an_error_that_names_the_folder(
    llava_folder: Path, tmp_path: Path, name: str
) -> None:
    backbone = cut(llava_folder, tmp_path / "cut", name, 0.5)
    with pytest.raises(ValueError, match="model folder .*/cut has broken files of its tokenizer"):
        _ = backbone.encoder


def test_older_weights_that_are_cut_off_are_named_before_anything_is_loaded(
    llava_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(llava_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"weight": torch.zeros(1000)}, folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    assert Llava(str(folder)).locate() == (folder, "folder")
    for stored in (0, 1000, len(whole) - 30):
        (folder / "pytorch_model.bin").write_bytes(whole[:stored])
        with pytest.raises(ValueError, match=rf"old/pytorch_model\.bin: cut off .*it has {stored} bytes"):
            Llava(str(folder)).locate()


def test_a_folder_without_its_tokenizer_is_named_with_the_missing_files(
    llava_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(llava_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    missing = r"bare lacks files of its tokenizer \(tokenizer\.json or tokenizer\.model or vocab\.json\)"
    with pytest.raises(ValueError, match=missing):
        _ = Llava(str(tmp_path / "bare")).encoder


@pytest.mark.parametrize(
    ("model_type", "backbone", "advice"),
    [
        (
            "qwen2_5_vl",
            Llava,
            "Llava takes models of type llava; .* 'qwen2_5_vl'; use --model.backbone Qwen2VL",
        ),
        ("llava", Qwen2VL, "Qwen2VL takes .* 'llava'; use --model.backbone Llava$"),
        ("bert", Qwen2VL, "'bert'; no backbone takes it$"),
    ],
)
def test_a_model_of_another_family_is_refused_by_its_config_alone_with_who_takes_it(
    tmp_path: Path, model_type: str, backbone: type[Backbone], advice: str
) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ValueError, match=advice):
        _ = backbone(str(tmp_path)).encoder


def with_a_number(folder: Path, copy: Path, number: float) -> Path:
    """A copy of a folder in which a number stands in two weights of the decoder, the first of them a norm."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    for part in ("input_layernorm", "mlp.gate_proj"):
        [name] = [
            name for name in tensors if name.endswith(f"layers.1.{part}.weight") and "vision" not in name
        ]
        tensors[name].view(-1)[5] = number
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(llava_folder: Path, tmp_path: Path, number: float) -> None:
    """Every answer would be the same nonsense, and every loss NaN."""
    folder = with_a_number(llava_folder, tmp_path / "bad", number)
    with pytest.raises(ValueError, match=f"model folder {folder}: 2 of its weights hold numbers") as caught:
        Llava(str(folder)).load()
    message = str(caught.value)
    assert "model.language_model.layers.1.input_layernorm.weight" in message
    assert "model.language_model.layers.1.mlp.gate_proj.weight" in message
    assert message.endswith("download or copy them again")


def test_weights_that_a_narrow_type_makes_infinite_are_named_with_the_remedy(
    llava_folder: Path, tmp_path: Path
) -> None:
    folder = with_a_number(llava_folder, tmp_path / "wide", 1e6)
    Llava(str(folder)).load()
    Llava(str(folder), dtype="bfloat16").load()
    with pytest.raises(ValueError, match=r"2 of its weights .* model\.backbone\.dtype: bfloat16"):
        Llava(str(folder), dtype="float16").load()


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_weights_that_are_not_finite_are_found_behind_a_quantised_form(
    llava_folder: Path, tmp_path: Path, form: Literal["nf4", "int8"]
) -> None:
    folder = with_a_number(llava_folder, tmp_path / "bad", math.nan)
    with pytest.raises(ValueError, match=r"2 of its weights .*layers\.1\.mlp\.gate_proj\.weight"):
        Llava(str(folder), quantization=form).load()
