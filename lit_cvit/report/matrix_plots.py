"""The figure of a run: the score matrix as a heat map, and every task's score over the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_cvit.report.plots import COLOURS, INK, MARKERS, heat_map, new_figure, plain_axes
from lit_cvit.report.tables import CAPTION_MARK, mean_of, seen_tasks
from lit_cvit.run import ScoreMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def matrix_figure(matrix: ScoreMatrix, *, title: str, miniature: bool = False) -> Figure:
    """Draw a score matrix: heat map on the left, lines over the stages on the right.

    Caption tasks carry a mark, their own colours in the heat map and dashed lines; where they exceed 100
    they have their own axis.

    Args:
        matrix: The matrix; one stage is enough.
        title: What the run is, for example method and benchmark.
        miniature: Say in the title that the benchmark is a miniature.

    Raises:
        ValueError: the matrix has no stage or no task.
    """
    if not matrix.stages or not matrix.tasks:
        raise ValueError("there is nothing to draw: the score matrix has no evaluated stage")
    num_stages, num_tasks = len(matrix.stages), len(matrix.tasks)
    width = 3.2 + 0.72 * num_tasks
    height = max(3.6, 2.0 + 0.46 * num_stages)
    label = " (miniature benchmark: not comparable with published numbers)" if miniature else ""
    figure = new_figure(width + 6.2, height, title + label, size=11)
    left, right = figure.subplots(1, 2, width_ratios=[width, 6.2])
    _cells(left, matrix)
    _lines(right, matrix)
    return figure


def _cells(axes: Axes, matrix: ScoreMatrix) -> None:
    from matplotlib.patches import Rectangle

    for column, task in enumerate(matrix.tasks):
        values = [row[column] for row in matrix.scores]
        caption = task in matrix.captions
        heat_map(
            axes,
            [[value] for value in values],
            top=max([100.0, *(v for v in values if v is not None)]) if caption else 100.0,
            palette="Oranges" if caption else "Blues",
            column=column,
            number="{:.1f}".format,
            size=8.5,
        )
        for row, learned in enumerate(matrix.stages):
            if learned == task:
                place = (column - 0.46, row - 0.46)
                axes.add_patch(Rectangle(place, 0.92, 0.92, fill=False, edgecolor=INK, lw=1.4))
    for column in range(1, len(matrix.tasks)):
        axes.axvline(column - 0.5, color="white", lw=1.5)
    for row in range(1, len(matrix.stages)):
        axes.axhline(row - 0.5, color="white", lw=1.5)
    _name_cells(axes, matrix)


def _name_cells(axes: Axes, matrix: ScoreMatrix) -> None:
    axes.set_xlim(-0.5, len(matrix.tasks) - 0.5)
    axes.set_ylim(len(matrix.stages) - 0.5, -0.5)
    axes.set_aspect(0.66, anchor="NW")
    columns = range(len(matrix.tasks))
    axes.set_xticks(columns, _marked(matrix), rotation=30, ha="right", rotation_mode="anchor", fontsize=8.5)
    names = [f"{number}  {learned}" for number, learned in enumerate(matrix.stages, start=1)]
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_ylabel("after stage", fontsize=9)
    note = f"    {CAPTION_MARK} caption metric" if matrix.captions else ""
    axes.set_title(f"Score by task (framed: just learned){note}", fontsize=9.5, loc="left")


def _lines(axes: Axes, matrix: ScoreMatrix) -> None:
    stages = range(1, len(matrix.stages) + 1)
    columns = [[row[index] for row in matrix.scores] for index in range(len(matrix.tasks))]
    apart = any(
        value is not None and value > 100.0
        for task, column in zip(matrix.tasks, columns, strict=True)
        if task in matrix.captions
        for value in column
    )
    caption_axes = axes.twinx() if apart else axes
    handles = []
    for index, (task, name) in enumerate(zip(matrix.tasks, _marked(matrix), strict=True)):
        if all(value is None for value in columns[index]):
            continue
        caption = task in matrix.captions
        target = caption_axes if caption else axes
        handles += _line(target, stages, columns[index], name=name, index=index, caption=caption)
    means = _means(matrix)
    if any(mean is not None for mean in means):
        name = "mean of learned tasks" + (",\nwithout captions" if matrix.captions else "")
        gaps = [float("nan") if mean is None else mean for mean in means]
        handles += axes.plot(stages, gaps, color="black", lw=2.6, marker="_", ms=13, mew=2.6, label=name)
    _style_lines(axes, matrix)
    if apart:
        _style_second(caption_axes)
    axes.figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)


def _line(
    axes: Axes, stages: Sequence[int], values: list[float | None], *, name: str, index: int, caption: bool
) -> list[Line2D]:
    return axes.plot(
        stages,
        [float("nan") if value is None else value for value in values],
        color=COLOURS[index % len(COLOURS)],
        ls="--" if caption else "-",
        lw=1.6,
        marker=MARKERS[index % len(MARKERS)],
        ms=5,
        label=name,
    )


def _style_second(axes: Axes) -> None:
    axes.set_ylabel(f"{CAPTION_MARK} caption metric (dashed)", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "left"]].set_visible(False)


def _style_lines(axes: Axes, matrix: ScoreMatrix) -> None:
    num_stages = len(matrix.stages)
    axes.set_xlim(0.7, num_stages + 0.3)
    axes.set_xticks(range(1, num_stages + 1))
    axes.set_ylim(-3, 103)
    axes.set_xlabel("stage", fontsize=9)
    axes.set_ylabel("score (%)", fontsize=9)
    axes.set_title("Score over the stages", fontsize=9.5, loc="left")
    plain_axes(axes)


def _means(matrix: ScoreMatrix) -> list[float | None]:
    return [
        mean_of(
            matrix.tasks,
            row,
            over=[task for task in seen_tasks(matrix, index) if task not in matrix.captions],
        )
        for index, row in enumerate(matrix.scores)
    ]


def _marked(matrix: ScoreMatrix) -> list[str]:
    return [task + CAPTION_MARK * (task in matrix.captions) for task in matrix.tasks]
