"""Placement: which decoder layers expand over tasks and which fuse them, from a user's words or a CKA report.

Source: HiDe-LLaVA, arXiv 2503.12941, Sec. 4.1, Figs. 1-2, Table 3.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch

from lit_cvit.analysis.cka import THRESHOLD, first_task_specific_layer, largest_drop, task_curve

Layers = list[int] | Literal["top", "below_top", "all", "auto"]
Role = Literal["expand", "fuse", "bare"]


def place(expand: Layers, fuse: Layers, *, num_layers: int, divided: Collection[int] = ()) -> dict[int, Role]:
    """The role of every decoder layer.

    Args:
        expand: Layers to expand.
        fuse: Layers to fuse; a word leaves out those that are expanded.
        num_layers: Decoder layers of the backbone.
        divided: What `auto` expands.

    Raises:
        ValueError: a layer does not exist or is named twice.
    """
    expanded = _chosen("expand", expand, num_layers, set(divided))
    fused = _chosen("fuse", fuse, num_layers, set(range(num_layers)) - set(divided))
    if isinstance(fuse, str):
        fused -= expanded
    if expanded & fused:
        raise ValueError(f"model.expand and model.fuse both name layer {min(expanded & fused)}")
    return {n: "expand" if n in expanded else "fuse" if n in fused else "bare" for n in range(num_layers)}


def _chosen(option: str, asked: Layers, count: int, auto: set[int]) -> set[int]:
    if isinstance(asked, list):
        for layer in asked:
            if not -count <= layer < count:
                allowed = f"0 to {count - 1}, or -{count} to -1 from the top"
                raise ValueError(f"model.{option}: the decoder has no layer {layer}; allowed are {allowed}")
        return {layer % count for layer in asked}
    every = set(range(count))
    words = {"top": {count - 1}, "below_top": every - {count - 1}, "all": every, "auto": auto}
    return words[asked]


def layers_to_expand(report: Path, *, num_layers: int) -> list[int]:
    """The layers from the first task-specific one on, as `lit_cvit.analysis.cka` finds it, up to the top.

    Args:
        report: JSON file {"cka": matrices}, a (tasks, tasks) matrix for every layer from input to output, as
            `CKAAnalysis` and `analyze cka` write it; its "threshold", if it has one, is the rule's.
        num_layers: Decoder layers of the backbone.

    Raises:
        ValueError: the file is missing or not as it should be, or no layer stands out.
    """
    where = f"model.cka_report {str(report)!r}"
    if not report.is_file():
        raise ValueError(f"{where} is not a file; write it first, or name the layers of expand and fuse")
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        matrices = torch.tensor(content["cka"], dtype=torch.float64)
        threshold = float(content.get("threshold", THRESHOLD))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{where} must hold {{"cka": a matrix for every decoder layer}}: {type(error).__name__} {error}'
        ) from error
    try:
        curve = task_curve(matrices)
        layer, drop = largest_drop(curve)
        first = first_task_specific_layer(curve, threshold)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    if len(matrices) != num_layers:
        raise ValueError(f"{where} has {len(matrices)} layers, the decoder has {num_layers}")
    if first is None:
        raise ValueError(
            f"{where} has no task-specific layer: the mean CKA of two tasks falls most at layer {layer}, by "
            f"{drop:.3g}, and must fall by more than {threshold:g}; name the layers to expand"
        )
    return list(range(first, num_layers))
