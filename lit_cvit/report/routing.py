"""The report of a routing analysis: values as JSON and CSV, heat maps of blocks and the fusion as PNG."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_cvit.analysis.layers import layer_of
from lit_cvit.analysis.routing import RoutingReport, TaskRouting
from lit_cvit.report.routing_plots import blocks_figure, fusion_figure
from lit_cvit.report.tables import Cell, Table, csv_text
from lit_cvit.report.write import run_facts, short_title, write_figures
from lit_cvit.run import RunFolder, RunRecord, Writer

SCHEMA = 1
NOTE = (
    "gate: mean over samples, each averaged over its prompt positions. used: share of samples (of positions, "
    "where gates vary inside a sample) for which the block's gate is not zero. fusion: alpha and beta, the "
    "mean weights of the two fused branches."
)
_HEADER = ("stage", "task", "status", "part", "bank", "layer", "samples", "measure", "block", "value")


def routing_json(report: RoutingReport) -> dict[str, Any]:
    """The whole report as plain values; blocks count from 0, stages from 1."""
    return {
        "schema": SCHEMA,
        "analysis": "routing",
        "stage": report.stage,
        "learned": report.learned,
        "note": NOTE,
        "tasks": [
            {
                "task": task.task,
                "status": _status(task),
                "part": _part(task),
                "samples": task.samples,
                "banks": {name: asdict(bank) for name, bank in task.banks.items()},
            }
            for task in report.tasks
        ],
    }


def routing_table(report: RoutingReport) -> Table:
    """One row for every task, bank, measure (`gate`, `used`, `alpha`, `beta`) and block."""
    rows: list[tuple[Cell, ...]] = []
    for task in report.tasks:
        for name, bank in task.banks.items():
            where = (report.stage, task.task, _status(task), _part(task), name, layer_of(name), bank.samples)
            for measure, values in (("gate", bank.gate), ("used", bank.used)):
                rows += [(*where, measure, block, value) for block, value in enumerate(values)]
            for measure, value in zip(("alpha", "beta"), bank.fusion or (), strict=False):
                rows.append((*where, measure, None, value))
    return Table(_HEADER, tuple(rows))


def routing_folder(run: RunFolder, stage: int) -> Path:
    """Where a run keeps the routing after a stage: `analysis/routing/02-GQA`."""
    return run.analysis_path("routing") / run.stage_folder(stage).name


def is_written(folder: Path) -> bool:
    """Whether a report is whole: its JSON is written last."""
    return (folder / "routing.json").is_file()


def write_routing(writer: Writer, folder: Path, report: RoutingReport, record: RunRecord) -> list[Path]:
    """Write `routing.csv`, `gate.png`, `used.png`, `fusion.png` if branches are fused, and `routing.json`.

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
    about = f"{short_title(record)}\nafter stage {report.stage} ({report.learned})"
    figures = {
        "gate.png": lambda: blocks_figure(report, "gate", title=f"Mean gate of each block: {about}"),
        "used.png": lambda: blocks_figure(report, "used", title=f"Share of samples using a block: {about}"),
    }
    if report.fusion():
        figures["fusion.png"] = lambda: fusion_figure(
            report.fusion(), title=f"Weights of the fused branches: {about}"
        )
    table, values = folder / "routing.csv", folder / "routing.json"
    writer.write_text(table, csv_text(routing_table(report)))
    pictures = write_figures(writer, folder, figures)
    writer.write_json(values, {**routing_json(report), "run": run_facts(record)})
    return [table, *pictures, values]


def _status(task: TaskRouting) -> str:
    return "seen" if task.seen else "unseen"


def _part(task: TaskRouting) -> str:
    return "downstream" if task.held_out else "stream"
