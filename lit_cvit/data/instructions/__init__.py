"""Instruction strings and task orders of the published benchmarks, as data."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, Literal

from lit_cvit.utils.suggest import unknown

Style = Literal["Original", "Diverse", "10Type"]
Wording = Literal["coin", "lcia_refined", "hide"]


def cvit_instructions(task: str, style: Literal["single", "multi"]) -> tuple[str, ...]:
    """Return the instruction strings of a CVIT task (SMoLoRA): one for `single`, five for `multi`.

    Raises:
        ValueError: the task or the style is unknown; names the nearest task and lists all.
    """
    return _strings("CVIT", {key: _data("cvit")[key] for key in ("single", "multi")}, style, task)


def coin_instructions(task: str, style: Style, wording: Wording) -> tuple[str, ...]:
    """Return the instruction strings of a CoIN task: one for `Original` and `Diverse`, eleven for `10Type`.

    Args:
        task: Name of the task.
        style: Whether tasks of a kind share a string (`Original`), or each has one (`Diverse`) or many of its
            own (`10Type`).
        wording: `coin` as in CoIN, `lcia_refined` as in LCIA, where ImageNet's strings name the object, or
            `hide` as in HiDe-LLaVA, which has `Original` alone.

    Raises:
        ValueError: the task, the style or the wording is unknown; names the nearest and lists all.
    """
    data = _data("coin")
    wordings = {key: data[key] for key in ("coin", "lcia_refined", "hide")}
    if wording not in wordings:
        raise ValueError(unknown("wording", wording, wordings))
    return _strings("CoIN", wordings[wording], style, task)


def ucit_instructions(task: str) -> tuple[str, ...]:
    """Return the instruction string of a UCIT task (HiDe-LLaVA).

    Raises:
        ValueError: the task is unknown; names the nearest and lists all.
    """
    return _of_task("UCIT", _data("ucit")["instructions"], task)


def task_orders(benchmark: Literal["coin", "ucit"]) -> dict[str, tuple[str, ...]]:
    """Return the published orders of a benchmark's tasks, by their names, the main one first."""
    return {name: tuple(tasks) for name, tasks in _data(benchmark)["orders"].items()}


def _strings(benchmark: str, styles: dict[str, Any], style: str, task: str) -> tuple[str, ...]:
    if style not in styles:
        raise ValueError(unknown("instruction style", style, styles))
    return _of_task(benchmark, styles[style], task)


def _of_task(benchmark: str, tasks: dict[str, list[str]], task: str) -> tuple[str, ...]:
    if task not in tasks:
        raise ValueError(unknown(f"{benchmark} task", task, tasks))
    return tuple(tasks[task])


@functools.cache
def _data(name: str) -> dict[str, Any]:
    text = resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
