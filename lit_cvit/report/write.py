"""The `report/` folder of a run: tables as Markdown and CSV, and the figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cvit.report.matrix_plots import matrix_figure
from lit_cvit.report.plots import png
from lit_cvit.report.summary import run_summary
from lit_cvit.report.tables import Table, csv_text, further_table, markdown, matrix_table, summary_table
from lit_cvit.run import RunFolder, RunRecord, ScoreMatrix, Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MINIATURE = "Miniature benchmark: these numbers cannot be compared with published ones."


def write_report(run: RunFolder, summary: Mapping[str, float] | None = None) -> list[Path]:
    """Write `matrix.md`, `matrix.csv`, `summary.md`, `summary.csv` and `matrix.png` into `report/`.

    Args:
        run: The run; one evaluated stage is enough, so a stopped run can be reported on.
        summary: Summary metrics by name; by default those of `run_summary`.

    Returns:
        The files, in the order above.

    Raises:
        ValueError: no stage of the run is evaluated.
        OSError: the folder cannot be written.
    """
    matrix = run.matrix()
    if not any(cell is not None for row in matrix.scores for cell in row):
        raise ValueError(f"{run.path} has no evaluated stage, so there is nothing to report")
    if summary is None:
        summary = run_summary(matrix)
    folder = run.report_path
    texts = {
        folder / "matrix.md": _matrix_page(run, matrix),
        folder / "matrix.csv": csv_text(matrix_table(matrix)),
        folder / "summary.md": _summary_page(run, summary),
        folder / "summary.csv": csv_text(summary_table(summary)),
    }
    for path, text in texts.items():
        run.writer.write_text(path, text)
    title, miniature = run_title(run.record), run.record.miniature
    figures = {"matrix.png": lambda: matrix_figure(matrix, title=title, miniature=miniature)}
    return [*texts, *write_figures(run.writer, folder, figures)]


def run_title(record: RunRecord) -> str:
    """What a run is in one line: method, benchmark and seed."""
    method, benchmark = record.method or "unnamed method", record.benchmark or "unnamed benchmark"
    return f"{method} on {benchmark}, seed {record.seed}"


def short_title(record: RunRecord) -> str:
    """`run_title`, and whether the benchmark is a miniature."""
    return run_title(record) + (" (miniature benchmark)" if record.miniature else "")


def run_facts(record: RunRecord) -> dict[str, Any]:
    """What the JSON of an analysis says of its run."""
    return {name: getattr(record, name) for name in ("method", "benchmark", "miniature", "seed")}


def write_figures(writer: Writer, folder: Path, figures: Mapping[str, Callable[[], Figure]]) -> list[Path]:
    """Draw and write figures; a writer that is not enabled draws nothing.

    Args:
        writer: The writer.
        folder: Where to.
        figures: File name to what draws it.

    Returns:
        The files, also where nothing is drawn.
    """
    if writer.enabled:
        for name, draw in figures.items():
            writer.write_bytes(folder / name, png(draw()))
    return [folder / name for name in figures]


def _matrix_page(run: RunFolder, matrix: ScoreMatrix) -> str:
    parts = [_heading(run), "## Score by task after each stage", markdown(matrix_table(matrix))]
    downstream = run.downstream()
    if any(cell is not None for row in downstream.scores for cell in row):
        parts += ["## Downstream tasks", markdown(_downstream_table(downstream))]
    if any(cell is not None for row in matrix.mif for cell in row):
        parts += ["## Answers in the form asked for (MIF, %)", markdown(further_table(matrix, matrix.mif))]
    for name, cells in matrix.also.items():
        parts += [f"## Also: {name}", markdown(further_table(matrix, cells))]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _downstream_table(matrix: ScoreMatrix) -> Table:
    rows = [
        (index, learned, task, score, mif)
        for index, (learned, scores, mifs) in enumerate(
            zip(matrix.stages, matrix.scores, matrix.mif, strict=True), start=1
        )
        for task, score, mif in zip(matrix.tasks, scores, mifs, strict=True)
        if score is not None
    ]
    return Table(("after stage", "learned", "task", "score", "MIF"), tuple(rows))


def _summary_page(run: RunFolder, summary: Mapping[str, float]) -> str:
    record = run.record
    facts: dict[str, str | int | float] = {
        "stages": f"{len(run.stages_done())} of {record.num_stages or len(record.stages)}",
        "backbone": _backbone(record),
        "machine": f"{record.machine.get('num_cpus', '?')} CPUs, {_accelerators(record)}",
        "seconds of training": _seconds(record, "train"),
        "seconds of evaluation": _seconds(record, "evaluate"),
        "created": record.created,
    }
    about = Table(("run", run.path.name), tuple(facts.items()))
    return f"{_heading(run)}\n{markdown(summary_table(summary))}\n{markdown(about, digits=1)}"


def _heading(run: RunFolder) -> str:
    return f"# {run_title(run.record)}\n" + (f"\n{MINIATURE}\n" if run.record.miniature else "")


def _accelerators(record: RunRecord) -> str:
    return ", ".join(record.machine.get("accelerators", ())) or "no accelerator"


def _seconds(record: RunRecord, activity: str) -> float:
    return sum((stage.seconds.get(activity, 0.0) for stage in record.stages), 0.0)


def _backbone(record: RunRecord) -> str:
    """Class, name or path, and quantisation of the backbone, as far as the record has them."""
    parts = [str(record.backbone[key]) for key in ("class", "name_or_path") if key in record.backbone]
    form = record.backbone.get("quantization", "none")
    return " ".join([*parts, *([] if form == "none" else [str(form)])]) or "not recorded"
