"""Instruction strings of the published benchmarks, as data."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal

from lit_cvit.data.hints import unknown


def cvit_instructions(task: str, style: Literal["single", "multi"]) -> tuple[str, ...]:
    """Return the instruction strings of a CVIT task (SMoLoRA): one for `single`, five for `multi`.

    Raises:
        ValueError: the task or the style is unknown; names the nearest task and lists all.
    """
    styles = _cvit()
    if style not in styles:
        raise ValueError(unknown("instruction style", style, styles))
    if task not in styles[style]:
        raise ValueError(unknown("CVIT task", task, styles[style]))
    return styles[style][task]


@functools.cache
def _cvit() -> dict[str, dict[str, tuple[str, ...]]]:
    text = resources.files(__name__).joinpath("cvit.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return {style: {task: tuple(s) for task, s in data[style].items()} for style in ("single", "multi")}
