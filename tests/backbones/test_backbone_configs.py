"""The shipped configuration of every backbone: its header, and what it builds; no weights are read."""

from __future__ import annotations

import re

import pytest

from lit_cvit.cli.shipped import CONFIGS
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.methods import ContinualMethod

EXPECTED = {
    "internvl3_8b": ("InternVL", "OpenGVLab/InternVL3-8B-hf"),
    "llava_1_5_13b": ("Llava", "llava-hf/llava-1.5-13b-hf"),
    "llava_1_5_7b": ("Llava", "llava-hf/llava-1.5-7b-hf"),
    "llava_next_7b": ("LlavaNext", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    "llava_onevision_7b": ("LlavaOnevision", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    "qwen2_5_vl_7b": ("Qwen2VL", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen2_vl_7b": ("Qwen2VL", "Qwen/Qwen2-VL-7B-Instruct"),
    "qwen3_vl_8b": ("Qwen3VL", "Qwen/Qwen3-VL-8B-Instruct"),
    "tiny": ("Tiny", "tiny"),
    "vicuna_7b_llava_stage1": ("Llava", "./vicuna_7b_llava_stage1"),
}


def header(name: str) -> str:
    return (CONFIGS / "backbones" / f"{name}.yaml").read_text(encoding="utf-8").partition("model:\n")[0]


def test_every_backbone_of_the_list_is_shipped() -> None:
    assert sorted(path.stem for path in (CONFIGS / "backbones").glob("*.yaml")) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_configuration_swaps_the_backbone_alone(name: str) -> None:
    plain = StreamCLI(["--config", "quickstart"], run=False).model
    model = StreamCLI(["--config", "quickstart", "--config", f"backbones/{name}"], run=False).model
    assert isinstance(model, ContinualMethod)
    assert (type(model.backbone).__name__, model.backbone.name_or_path) == EXPECTED[name]
    assert model.backbone.dtype == ("float32" if name == "tiny" else "bfloat16")
    assert (type(model), model.rank) == (type(plain), plain.rank)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_header_gives_source_licence_memory_and_command(name: str) -> None:
    text = header(name)
    assert all(line.startswith("# ") for line in text.splitlines())
    assert "Licen" in text
    assert re.search(r"computed \(parameters x bytes\), not measured: [\d.]+", text)
    assert text.endswith(f"\n# python -m lit_cvit fit --config quickstart --config backbones/{name}\n")
    assert EXPECTED[name][1] in text or name in ("tiny", "vicuna_7b_llava_stage1")


@pytest.mark.parametrize(
    ("name", "paper"), [("qwen2_vl_7b", "Qwen-VL-7B"), ("internvl3_8b", "InternVL-Chat-7B")]
)
def test_a_stand_in_says_which_model_of_the_papers_it_is_not(name: str, paper: str) -> None:
    assert f"modern sibling of {paper}" in header(name)
    assert "trust_remote_code: true" in header(name)
