"""The tables of a comparison: for people with one decimal, as CSV with every digit."""

from __future__ import annotations

import statistics

from lit_cvit.metrics.continual import WITHOUT_CAPTIONS
from lit_cvit.report.bootstrap import NUM_RESAMPLES
from lit_cvit.report.compare import DIFFERENCES, Comparison, Difference, Row
from lit_cvit.report.isolated import FWT
from lit_cvit.report.summary import HEADLINE
from lit_cvit.report.tables import CAPTION_MARK, Cell, Table, csv_text, markdown, spread
from lit_cvit.report.write import MINIATURE

_OVER = "interval over"


def measured_table(comparison: Comparison) -> Table:
    """A row per group: number of seeds, metrics and final scores, each as mean and deviation over seeds."""
    names, matrix = _metrics(comparison), comparison.first.matrix
    marked = [task + CAPTION_MARK * (task in matrix.captions) for task in matrix.tasks]
    rows: list[tuple[Cell, ...]] = [
        (
            row.group.name,
            len(row.group.runs),
            *(spread(row.metrics.get(name, [])) for name in names),
            *(spread(row.scores[task]) for task in matrix.tasks),
        )
        for row in comparison.rows
    ]
    notes = ["tasks: score after the last stage"]
    if any(len(row.group.runs) > 1 for row in comparison.rows):
        notes.append("mean \u00b1 standard deviation over seeds")
    if matrix.captions:
        notes.append(f"{CAPTION_MARK} caption metric: not a percentage")
    return Table(("", "seeds", *names, *marked), tuple(rows), "; ".join(notes))


def difference_table(comparison: Comparison) -> Table | None:
    """The differences of every group to the first with intervals; None where there is one group alone."""
    others = comparison.rows[1:]
    if not others:
        return None
    names = [name for name in DIFFERENCES if any(name in row.differences for row in others)]
    rows: list[tuple[Cell, ...]] = [
        (row.group.name, *(_shown(row.differences.get(name)) for name in names), row.over) for row in others
    ]
    return Table(("", *names, _OVER), tuple(rows), _difference_note(comparison))


def heading(comparison: Comparison) -> list[str]:
    """What the runs have in common, and a second line where it is a miniature."""
    record = comparison.first.record
    line = f"Comparison on {record.benchmark or 'an unnamed benchmark'}"
    return [line, MINIATURE] if record.miniature else [line]


def difference_title(comparison: Comparison) -> str:
    """What the second table holds."""
    return f"Difference to {comparison.rows[0].group.name}, in points"


def page(comparison: Comparison) -> str:
    """`compare.md`."""
    first, *further = heading(comparison)
    parts = [f"# {first}", *further, markdown(measured_table(comparison))]
    differences = difference_table(comparison)
    if differences is not None:
        parts += [f"## {difference_title(comparison)}", markdown(differences)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def csv_page(comparison: Comparison) -> str:
    """`compare.csv`: a row per group with all of both tables, a column for every number."""
    names, tasks = _metrics(comparison), comparison.first.matrix.tasks
    compared = [name for name in DIFFERENCES if any(name in row.differences for row in comparison.rows)]
    header = ["group", "seeds"]
    header += [f"{name}{part}" for name in (*names, *tasks) for part in ("", " deviation")]
    header += [f"{name} {part}" for name in compared for part in ("difference", "low", "high")]
    rows = [_numbers(row, names, tasks, compared) for row in comparison.rows]
    return csv_text(Table((*header, _OVER), tuple(rows)))


def _numbers(row: Row, names: list[str], tasks: tuple[str, ...], compared: list[str]) -> tuple[Cell, ...]:
    cells: list[Cell] = [row.group.name, len(row.group.runs)]
    for values in (*(row.metrics.get(name, []) for name in names), *(row.scores[task] for task in tasks)):
        cells.append(statistics.fmean(values) if values else None)
        cells.append(statistics.stdev(values) if len(values) > 1 else None)
    for name in compared:
        found = row.differences.get(name)
        cells += [found.value, found.low, found.high] if found is not None else [None, None, None]
    return (*cells, row.over)


def _metrics(comparison: Comparison) -> list[str]:
    """The metrics that some group has; joint training has no MAP and BWT, FWT needs isolated runs."""
    order = [*(name + ending for ending in ("", WITHOUT_CAPTIONS) for name in HEADLINE), FWT]
    return [name for name in order if any(name in row.metrics for row in comparison.rows)]


def _shown(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.1f}"
    return f"{difference.value:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"


def _difference_note(comparison: Comparison) -> str:
    others, notes = comparison.rows[1:], []
    if any(found.low is not None for row in others for found in row.differences.values()):
        notes.append(
            f"in brackets the 95 % interval of a bootstrap of {NUM_RESAMPLES} resamples over what the last "
            "column names; it says nothing of what is not drawn, and over few seeds alone it is too narrow"
        )
    backbones = {
        (run.record.backbone.get("digest"), run.record.backbone.get("quantization"))
        for row in comparison.rows
        for run in row.group.runs
    }
    if len(backbones) > 1:
        notes.append("the backbones are not the same in all rows")
    return "; ".join(notes)
