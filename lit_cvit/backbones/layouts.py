"""Folders that hold a model in another layout than transformers' own, and what to use in their place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_ORIGINAL_NAMES = re.compile(r"liuhaotian/|lmms-lab/llava-onevision")
_NEXT = re.compile("anyres|1[.]6")
_WIDTH_OF_13B = 5120


def require_known_layout(folder: Path) -> None:
    """Refuse what is no model in transformers' layout: an original LLaVA or InternVL, or a LoRA adapter.

    Raises:
        ValueError: it is one of these; names a model of the hub, or how to make one.
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base = _read(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        raise ValueError(
            f"{folder} holds a LoRA adapter of PEFT (adapter_config.json), no model; merge it into {base} "
            "(`merge_and_unload` of peft), save that model, and give its folder"
        )
    config = _read(folder / "config.json")
    architectures = [str(name) for name in config.get("architectures") or []]
    original = [name for name in architectures if re.fullmatch(r"Llava\w*ForCausalLM", name)]
    if original or "mm_vision_tower" in config:
        found = original[0] if original else "mm_vision_tower in config.json"
        size = "13b" if config.get("hidden_size") == _WIDTH_OF_13B else "7b"
        words = f"{original} {config.get('model_type')} {config.get('image_aspect_ratio')} {size}"
        raise ValueError(_of_original(repr(str(folder)), found, _converted(words)))
    if config.get("model_type") == "internvl_chat":
        raise ValueError(
            f"{folder} is in the layout of InternVL's original code (model_type internvl_chat); use a model "
            "in transformers' layout, whose name ends in -hf, such as OpenGVLab/InternVL3-8B-hf"
        )


def require_known_name(name: str) -> None:
    """Refuse a hub name under which there is a model of LLaVA's original code, before it is downloaded.

    Raises:
        ValueError: it is one; names a model that is read.
    """
    if _ORIGINAL_NAMES.match(name):
        raise ValueError(_of_original(repr(name), "by its name", _converted(name)))


def _of_original(what: str, found: str, converted: str) -> str:
    return (
        f"backbone name_or_path {what} is in the layout of LLaVA's original code ({found}); use the same "
        f"model in transformers' layout, such as {converted}. A projector alone (mm_projector.bin of the "
        "first stage) is put together with its parts by `convert`"
    )


def _converted(words: str) -> str:
    """The hub's model in transformers' layout that is nearest to an original one."""
    words = words.lower()
    size = "13b" if "13b" in words else "7b"
    if "qwen" in words:
        return "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    if "mistral" in words:
        return "llava-hf/llava-v1.6-mistral-7b-hf"
    return f"llava-hf/llava-v1.6-vicuna-{size}-hf" if _NEXT.search(words) else f"llava-hf/llava-1.5-{size}-hf"


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is missing or broken, which is named elsewhere."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
