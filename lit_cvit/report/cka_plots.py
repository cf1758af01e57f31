"""The figures of a CKA analysis: the curve over the layers, and heat maps of tasks and of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lit_cvit.analysis.cka import off_diagonal
from lit_cvit.report.plots import COLOURS, heat_map, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FOUND, _CHANCE, _MARK = COLOURS[0], COLOURS[7], COLOURS[1]
_PER_ROW = 8
# Numbers in the cells of larger matrices could not be read.
_MOST_NUMBERS = 8
# All panels of a row together, in inches.
_WIDEST = 16.0


def curve_figure(cka: Tensor, chance: Tensor, *, first: int | None, title: str) -> Figure:
    """Draw the mean CKA of two different tasks over the layers, with the range of the pairs.

    Args:
        cka: (L, T, T).
        chance: The mean of `cka` over all orders of the rows: (L, T, T).
        first: The first task-specific layer, which is marked, or None.
        title: What the figure is of.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.0, 4.6, title)
    axes = figure.subplots()
    layers = range(len(cka))
    pairs = off_diagonal(cka)
    low, high = pairs.amin(1), pairs.amax(1)
    axes.fill_between(layers, low, high, color=_FOUND, alpha=0.15, lw=0, label="range of pairs")
    axes.plot(layers, pairs.mean(1), color=_FOUND, lw=1.8, marker="o", ms=4.5, label="mean of two tasks")
    by_chance = off_diagonal(chance).mean(1)
    axes.plot(layers, by_chance, color=_CHANCE, lw=1.4, ls="--", label="mean over all orders of the rows")
    if first is not None:
        axes.axvline(first, color=_MARK, lw=1.4, ls=":", label=f"first task-specific layer: {first}")
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("decoder layer", fontsize=9)
    axes.set_ylabel("CKA", fontsize=9)
    plain_axes(axes)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    return figure


def tasks_figure(cka: Tensor, tasks: Sequence[str], *, title: str) -> Figure:
    """Draw a heat map of the tasks for every layer.

    Args:
        cka: (L, T, T).
        tasks: Their names.
        title: What the figure is of.
    """
    columns = min(len(cka), _PER_ROW)
    rows = -(-len(cka) // columns)
    side = max(1.7, min(0.34 * len(tasks), _WIDEST / columns))
    figure = new_figure(columns * side + 2.6, rows * (side + 0.35) + 2.0, title)
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for layer, axes in enumerate(panels):
        if layer >= len(cka):
            axes.set_visible(False)
            continue
        heat_map(axes, cka[layer].tolist(), number=_number(len(tasks)))
        axes.set_title(f"layer {layer}", fontsize=8.5, loc="left")
        named = list(tasks) if layer + columns >= len(cka) else [""] * len(tasks)
        axes.set_xticks(range(len(tasks)), named, rotation=90, fontsize=7)
        named = list(tasks) if layer % columns == 0 else [""] * len(tasks)
        axes.set_yticks(range(len(tasks)), named, fontsize=7)
    figure.colorbar(panels[0].images[-1], ax=panels, shrink=0.7, label="CKA")
    return figure


def stages_figure(between: Mapping[str, tuple[list[int], Tensor]], *, title: str) -> Figure:
    """Draw for every task how like its representations stay to those of the stage that it was first seen at.

    Args:
        between: By task, the stages S it was seen at and their CKA (L, S, S).
        title: What the figure is of.
    """
    from matplotlib.ticker import MaxNLocator

    most = max(len(stages) for stages, _ in between.values())
    num_layers = max(len(matrices) for _, matrices in between.values())
    width = max(1.5, min(0.42 * most, _WIDEST / len(between)))
    height = max(1.6, min(0.26 * num_layers, 6.0))
    figure = new_figure(len(between) * width + 2.4, height + 1.8, title)
    panels = figure.subplots(1, len(between), squeeze=False).flatten().tolist()
    for number, (axes, (task, (stages, matrices))) in enumerate(zip(panels, between.items(), strict=True)):
        heat_map(axes, matrices[:, 0].tolist(), number=_number(most))
        axes.set_title(task, fontsize=8.5, loc="left")
        axes.set_xticks(range(len(stages)), [str(stage) for stage in stages], fontsize=7.5)
        axes.set_xlabel(f"stage, against {stages[0]}", fontsize=8)
        axes.invert_yaxis()
        axes.tick_params(labelleft=number == 0, labelsize=7.5)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("decoder layer", fontsize=8)
    figure.colorbar(panels[0].images[-1], ax=panels, shrink=0.8, label="CKA")
    return figure


def _number(columns: int) -> Callable[[float], str] | None:
    return "{:.2f}".format if columns <= _MOST_NUMBERS else None
