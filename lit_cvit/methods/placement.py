"""Placement: which decoder layers expand over tasks and which fuse them, from a user's words or a CKA report.

Source: HiDe-LLaVA, arXiv 2503.12941, Sec. 4.1, Figs. 1-2, Table 3.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch

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
        ValueError: a layer does not exist or is named twice, or a word is unknown.
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
    if asked not in words:
        raise ValueError(
            f"model.{option} must be a list of layers or one of {', '.join(words)}; got {asked!r}"
        )
    return words[asked]


def layers_to_expand(report: Path, *, num_layers: int) -> list[int]:
    """The layers on the less similar side of the widest gap between the layers' mean CKA of two tasks.

    Args:
        report: JSON file {"cka": matrices}, a (tasks, tasks) matrix for every layer from input to output.
        num_layers: Decoder layers of the backbone.

    Raises:
        ValueError: the file is missing or not as it should be, or the layers are all alike.
    """
    where = f"model.cka_report {str(report)!r}"
    if not report.is_file():
        raise ValueError(f"{where} is not a file; write it first, or name the layers of expand and fuse")
    try:
        matrices = torch.tensor(json.loads(report.read_text(encoding="utf-8"))["cka"], dtype=torch.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{where} must hold {{"cka": a matrix for every decoder layer}}: {type(error).__name__} {error}'
        ) from error
    if matrices.dim() != 3 or matrices.shape[1] != matrices.shape[2] or matrices.shape[1] < 2:
        shape = tuple(matrices.shape)
        raise ValueError(f"{where} must hold (layers, tasks, tasks) of two tasks or more, got {shape}")
    if len(matrices) != num_layers:
        raise ValueError(f"{where} has {len(matrices)} layers, the decoder has {num_layers}")
    if not matrices.isfinite().all():
        raise ValueError(f"{where} holds a similarity that is not a number")
    between = ~torch.eye(matrices.shape[1], dtype=torch.bool)
    similar = matrices[:, between].mean(1)
    ordered = similar.sort().values
    gaps = ordered.diff()
    if not gaps.numel() or gaps.max() <= 0:
        raise ValueError(f"{where}: all layers are alike, so none stands out; name the layers to expand")
    return [n for n, value in enumerate(similar) if value <= ordered[int(gaps.argmax())]]
