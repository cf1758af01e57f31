"""Folders in another layout, unfinished downloads and broken caches: the message says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lit_cvit.backbones import Backbone, InternVL, Llava

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\n"
)
NAME = "someone/llava"


def original(folder: Path, **config: Any) -> Path:
    """A checkpoint of LLaVA's own code, as far as its files are read."""
    settings = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336", **config}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "mm_projector.bin").write_bytes(b"PK")
    parts = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    return folder


@pytest.mark.parametrize(
    ("config", "use"),
    [
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "llava-hf/llava-1.5-7b-hf"),
        ({"hidden_size": 5120}, "llava-hf/llava-1.5-13b-hf"),
        ({"model_type": "llava_llama", "image_aspect_ratio": "anyres"}, "llava-hf/llava-v1.6-vicuna-7b-hf"),
        ({"architectures": ["LlavaMistralForCausalLM"]}, "llava-hf/llava-v1.6-mistral-7b-hf"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ],
)
def test_a_checkpoint_of_llavas_own_code_is_named_with_the_hubs_conversion(
    config: dict[str, Any], use: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="layout of LLaVA's original code") as caught:
        Llava(str(original(tmp_path, **config))).locate()
    assert f"such as {use}." in str(caught.value)


def test_a_hub_name_of_llavas_own_code_is_refused_before_it_is_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    for name, use in (
        ("liuhaotian/llava-v1.5-13b", "llava-hf/llava-1.5-13b-hf"),
        ("liuhaotian/llava-v1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    ):
        with pytest.raises(ValueError, match=f"original code.* such as {use}"):
            Llava(name).locate()


def test_internvls_own_layout_and_a_lora_adapter_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "internvl_chat"}')
    with pytest.raises(ValueError, match=r"InternVL's original code.*OpenGVLab/InternVL3-8B-hf"):
        InternVL(str(tmp_path)).locate()
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}')
    with pytest.raises(ValueError, match=r"LoRA adapter of PEFT.*merge it into llava-hf/llava-1\.5-7b-hf"):
        Llava(str(tmp_path)).locate()


def test_what_a_folder_lacks_is_listed(llava_folder: Path, tmp_path: Path) -> None:
    def refusal(backbone: Backbone) -> str:
        with pytest.raises(ValueError, match="folder is not complete, it lacks") as caught:
            backbone.locate()
        return str(caught.value)

    shutil.copytree(llava_folder, tmp_path / "a", ignore=shutil.ignore_patterns("*.safetensors"))
    assert "lacks weights (model.safetensors, or files and their index);" in refusal(Llava(f"{tmp_path}/a"))
    shards = {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}
    (tmp_path / "a/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    shutil.copy(llava_folder / "model.safetensors", tmp_path / "a" / shards["x"])
    assert f"lacks 1 of 2 files that model.safetensors.index.json names ({shards['y']})" in refusal(
        Llava(f"{tmp_path}/a")
    )
    (tmp_path / "a" / shards["y"]).symlink_to(tmp_path / "blobs" / "deleted")
    assert f"and the files that its links {shards['y']} lead to" in refusal(Llava(f"{tmp_path}/a"))
    # The folder of a model in the hub's cache, instead of the snapshot in it.
    shutil.copytree(llava_folder, tmp_path / "models--a--b/snapshots/123")
    assert f"give {tmp_path}/models--a--b/snapshots/123." in refusal(Llava(f"{tmp_path}/models--a--b"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_pointers_of_git_lfs_are_named_with_the_command(
    name: str, llava_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(llava_folder, tmp_path / "clone")
    (tmp_path / "clone" / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{name}: a pointer of Git LFS.*git lfs pull"):
        Llava(str(tmp_path / "clone")).locate()


@pytest.fixture
def cache(tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub whose cache has a model, and that cannot be reached."""
    folder = tmp_path / "models--someone--llava" / "snapshots" / "123"
    shutil.copytree(llava_folder, folder)

    def snapshot(name: str, *, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            raise OSError("offline")
        if name != NAME:
            raise LocalEntryNotFoundError("not there")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return folder


def test_a_model_that_the_cache_has_in_part_is_named_with_what_it_lacks_and_the_fix(cache: Path) -> None:
    assert Llava(NAME).is_here
    assert Llava(NAME).locate() == (cache, "hub 123")
    (cache / "model.safetensors").unlink()
    (cache / "model.safetensors").symlink_to(cache.parents[1] / "blobs" / "gone")
    assert not Llava(NAME).is_here
    with pytest.raises(
        ValueError, match=r"links model\.safetensors lead to.*could not be downloaded"
    ) as caught:
        Llava(NAME).locate()
    assert (
        f"delete {cache.parents[1]} and download it again with network access: `hf download {NAME}`"
        in str(caught.value)
    )
    with pytest.raises(ValueError, match="is not in the hub's cache.*Ways to get it"):
        Llava("someone/else").locate()


def test_a_damaged_file_of_the_cache_is_named_with_what_to_delete(cache: Path) -> None:
    whole = (cache / "model.safetensors").read_bytes()
    (cache / "model.safetensors").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors: cut off or broken") as caught:
        Llava(NAME).locate()
    assert (
        f"delete {cache.parents[1]} and download it again with network access: `hf download {NAME}`"
        in str(caught.value)
    )
