"""The figures of a routing analysis: blocks by tasks for every layer, and alpha and beta over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lit_cvit.analysis.layers import by_layer
from lit_cvit.analysis.routing import Fusion, RoutingReport
from lit_cvit.report.plots import COLOURS, MARKERS, heat_map, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Numbers in the cells of larger maps could not be read.
_MOST_NUMBERS = 12

Values = tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True)
class Panel:
    """A heat map: what it stands for, and for each task a value for every block, or None."""

    name: str
    values: Values


def panels(report: RoutingReport, measure: Literal["gate", "used"]) -> list[list[Panel]]:
    """The heat maps of a report, a row for each layer; what shows the same is merged.

    Modules of a layer with equal values share a panel, and neighbouring layers with equal panels a row, so a
    method with one gate for all layers has a single panel.
    """
    rows: list[tuple[list[str], list[Panel]]] = []
    for layer, names in by_layer(report.banks).items():
        merged: dict[Values, list[str]] = {}
        for name in names:
            banks = [task.banks.get(name) for task in report.tasks]
            values = tuple(None if b is None else b.gate if measure == "gate" else b.used for b in banks)
            merged.setdefault(values, []).append(name.removeprefix(f"{layer}.").rpartition(".")[2])
        found = [
            Panel("" if len(merged) == 1 else ", ".join(modules), values)
            for values, modules in merged.items()
        ]
        if rows and rows[-1][1] == found:
            rows[-1][0].append(layer)
        else:
            rows.append(([layer], found))
    return [[Panel(_titled(layers, each.name), each.values) for each in row] for layers, row in rows]


def _titled(layers: Sequence[str], modules: str) -> str:
    where = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
    return f"{where}: {modules}" if modules else where


def blocks_figure(report: RoutingReport, measure: Literal["gate", "used"], *, title: str) -> Figure:
    """Draw blocks by tasks: a row of heat maps for every layer, a map for each of its modules.

    Args:
        report: The report; at least one bank.
        measure: `gate` for mean gates, `used` for the share of samples that use a block.
        title: What the figure is of.

    Raises:
        ValueError: there is nothing to draw.
    """
    rows = panels(report, measure)
    if not rows:
        raise ValueError("there is nothing to draw: no bank of the report has a gate")
    columns, labels = max(map(len, rows)), [task.label for task in report.tasks]
    flat = [panel.values for row in rows for panel in row]
    blocks = max(len(each) for values in flat for each in values if each is not None)
    top = max(1.0, *(value for values in flat for each in values if each is not None for value in each))
    width, height = max(1.9, 0.3 * blocks), max(0.8, 0.26 * len(labels))
    margin = 0.3 + 0.062 * max(map(len, labels))
    size = (margin + columns * (width + 0.25) + 0.9, 0.9 + len(rows) * (height + 0.42) + 0.3)
    figure = new_figure(*size, title, by_hand=True)
    grid = figure.add_gridspec(
        len(rows),
        columns,
        left=margin / size[0],
        right=1 - 0.9 / size[0],
        top=1 - 0.85 / size[1],
        bottom=0.4 / size[1],
        wspace=0.25 / width,
        hspace=0.42 / height,
    )
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            axes = figure.add_subplot(grid[number, column])
            _draw(axes, panel, top=top)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [""] * len(labels), fontsize=7)
    scale = figure.add_axes((1 - 0.65 / size[0], 0.4 / size[1], 0.12 / size[0], min(0.6, 2 / size[1])))
    figure.colorbar(figure.axes[0].images[-1], cax=scale).ax.tick_params(labelsize=7)
    return figure


def fusion_figure(fusion: Sequence[Fusion], *, title: str) -> Figure:
    """Draw alpha and beta over the layers, a line for each task; lines of unseen tasks are dashed.

    Args:
        fusion: From `RoutingReport.fusion`; at least one task.
        title: What the figure is of.
    """
    layers = max((list(each.layers) for each in fusion), key=len)
    figure = new_figure(max(7.6, 3.2 + 0.5 * len(layers)), 3.8, title)
    names = ("alpha (visual understanding)", "beta (instruction following)")
    for number, (axes, name) in enumerate(zip(figure.subplots(1, 2), names, strict=True)):
        for index, (task, values) in enumerate(fusion):
            axes.plot(
                [place for place, layer in enumerate(layers) if layer in values],
                [values[layer][number] for layer in layers if layer in values],
                color=COLOURS[index % len(COLOURS)],
                ls="-" if task.seen else "--",
                lw=1.6,
                marker=MARKERS[index % len(MARKERS)],
                ms=4.5,
                label=task.label if number == 0 else None,
            )
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor")
        plain_axes(axes, size=7.5)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _draw(axes: Axes, panel: Panel, *, top: float) -> None:
    blocks = max(len(each) for each in panel.values if each is not None)
    cells = [list(each) if each is not None else [None] * blocks for each in panel.values]
    heat_map(axes, cells, top=top, number=_short if blocks <= _MOST_NUMBERS else None, size=5.5)
    axes.set_title(panel.name, fontsize=7.5, loc="left", pad=3)
    axes.set_xticks(range(blocks), [str(block) for block in range(blocks)], fontsize=6.5)
    axes.tick_params(pad=1.5)


def _short(value: float) -> str:
    if value <= 0:
        return ""
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.1f}".removesuffix(".0")
