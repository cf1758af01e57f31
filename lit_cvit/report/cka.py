"""The report of a CKA analysis: values as JSON and CSV, heat maps and the curve over the layers as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_cvit.analysis.cka import (
    RULE,
    THRESHOLD,
    Kernel,
    chance_similarities,
    first_task_specific_layer,
    largest_drop,
    similarities,
    task_curve,
)
from lit_cvit.report.cka_plots import curve_figure, stages_figure, tasks_figure
from lit_cvit.report.tables import Cell, Table, csv_text
from lit_cvit.report.write import run_facts, short_title, write_figures
from lit_cvit.run import RunRecord, Writer

SCHEMA = 1
NOTE = (
    "Row i of one task is compared with row i of another, in the order of their test splits: they are "
    "different samples, so the values between tasks depend on that order, and are to be read against "
    "`chance`, their mean over all orders. Between stages the rows are the same samples."
)
_PLACES = {"layer": "decoder layers' outputs", "down_proj": "down_proj outputs"}


@dataclass(frozen=True)
class CKAReport:
    """Similarities of tasks and stages in every decoder layer. T tasks, L layers, n samples of each task.

    Attributes:
        distances: By task and then by stage, the squared distances (L, n, n) of the task's pooled vectors
            through the adapter of that stage.
        stages: By task, the stage whose adapter its inputs go through when tasks are compared; at least two
            tasks, in the order of the stream.
        rows: By task, the positions of its samples in its test split.
        kernel: `linear` or `rbf`.
        at: `layer` or `down_proj`, the outputs that were pooled.
        through: What `stages` follows from, in a word: `own`, or the one stage.
        threshold: Drop of the curve that makes a layer the first task-specific one.
    """

    distances: Mapping[str, Mapping[int, Tensor]]
    stages: Mapping[str, int]
    rows: Mapping[str, Sequence[int]]
    kernel: Kernel = "linear"
    at: str = "layer"
    through: str = "own"
    threshold: float = THRESHOLD

    @property
    def tasks(self) -> list[str]:
        """The tasks that are compared."""
        return list(self.stages)

    @cached_property
    def cka(self) -> Tensor:
        """CKA of every two tasks: (L, T, T)."""
        return similarities(self._chosen, self.kernel)

    @cached_property
    def chance(self) -> Tensor:
        """The mean of `cka` over all orders of the rows: (L, T, T)."""
        return chance_similarities(self._chosen, self.kernel)

    @property
    def _chosen(self) -> list[Tensor]:
        return [self.distances[task][stage] for task, stage in self.stages.items()]

    @cached_property
    def curve(self) -> Tensor:
        """The mean CKA of two different tasks: (L,)."""
        return task_curve(self.cka)

    @property
    def first_task_specific_layer(self) -> int | None:
        """The layer that the rule finds, from 0; None also where a similarity is not defined."""
        if len(self.curve) < 2 or not self.curve.isfinite().all():
            return None
        return first_task_specific_layer(self.curve, self.threshold)

    @cached_property
    def between_stages(self) -> dict[str, tuple[list[int], Tensor]]:
        """For each task that was seen at several stages S, those and their CKA (L, S, S)."""
        compared = {}
        for task, found in self.distances.items():
            stages = sorted(found)
            if len(stages) > 1:
                compared[task] = (stages, similarities([found[stage] for stage in stages], self.kernel))
        return compared

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain values; layers and rows count from 0, stages from 1.

        `{"cka": a (T, T) matrix for each layer}` is what `HiDe(expand: auto)` reads, with `threshold`.
        """
        drop = None
        if len(self.curve) > 1 and self.curve.isfinite().all():
            drop = dict(zip(("layer", "drop"), largest_drop(self.curve), strict=True))
        return {
            "schema": SCHEMA,
            "analysis": "cka",
            "kernel": self.kernel,
            "at": self.at,
            "through": self.through,
            "samples": len(next(iter(self.rows.values()))),
            "layers": len(self.curve),
            "tasks": self.tasks,
            "stages": dict(self.stages),
            "paired_rows": {"between_tasks": False, "between_stages": True},
            "note": NOTE,
            "rule": RULE,
            "threshold": self.threshold,
            "first_task_specific_layer": self.first_task_specific_layer,
            "largest_drop": drop,
            "curve": self.curve.tolist(),
            "chance_curve": task_curve(self.chance).tolist(),
            "cka": self.cka.tolist(),
            "chance": self.chance.tolist(),
            "between_stages": {
                task: {"stages": stages, "cka": matrices.tolist()}
                for task, (stages, matrices) in self.between_stages.items()
            },
            "rows": {task: list(self.rows[task]) for task in self.distances},
        }

    def table(self) -> Table:
        """One row for every layer and unordered pair, of tasks and of stages."""
        cells: list[tuple[Cell, ...]] = []
        numbers = list(self.stages.items())
        pairs = [(a, b) for a in range(len(numbers)) for b in range(a + 1, len(numbers))]
        for layer, (matrix, chance) in enumerate(zip(self.cka, self.chance, strict=True)):
            for a, b in pairs:
                ends = (*numbers[a], *numbers[b])
                cells.append(("tasks", layer, *ends, float(matrix[a, b]), float(chance[a, b])))
        for task, (stages, matrices) in self.between_stages.items():
            for layer, matrix in enumerate(matrices):
                for a, one in enumerate(stages):
                    for b in range(a + 1, len(stages)):
                        ends = (task, one, task, stages[b])
                        cells.append(("stages", layer, *ends, float(matrix[a, b]), None))
        header = ("between", "layer", "task", "stage", "other_task", "other_stage", "cka", "chance")
        return Table(header, tuple(cells))


def write_cka(writer: Writer, folder: Path, report: CKAReport, record: RunRecord) -> list[Path]:
    """Write `cka.json`, `cka.csv`, `curve.png`, `tasks.png`, and `stages.png` if stages are compared.

    Args:
        writer: The writer; one that is not enabled writes and draws nothing.
        folder: Where to.
        report: The report.
        record: What the run is.

    Returns:
        The files.

    Raises:
        OSError: the folder cannot be written.
    """
    writer.write_json(folder / "cka.json", {**report.to_json(), "run": run_facts(record)})
    writer.write_text(folder / "cka.csv", csv_text(report.table()))
    num_samples = len(report.rows[report.tasks[0]])
    about = (
        f"{short_title(record)}\n"
        f"{report.kernel} CKA of the {_PLACES[report.at]}, {num_samples} samples of each task"
    )
    figures = {
        "curve.png": lambda: curve_figure(
            report.cka, report.chance, first=report.first_task_specific_layer, title=about
        ),
        "tasks.png": lambda: tasks_figure(report.cka, report.tasks, title=about),
    }
    if report.between_stages:
        figures["stages.png"] = lambda: stages_figure(report.between_stages, title=about)
    return [folder / "cka.json", folder / "cka.csv", *write_figures(writer, folder, figures)]
