"""Tables of a run: pure functions from a score matrix and summary metrics to Markdown, CSV and plain text."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_cvit.metrics.continual import WITHOUT_CAPTIONS
from lit_cvit.run import Cells, ScoreMatrix

Cell = str | int | float | None
CAPTION_MARK = "*"


@dataclass(frozen=True)
class Table:
    """A table whose numbers are still numbers; None is a cell without a value.

    Attributes:
        header: Column names.
        rows: Cells, as many per row as there are columns.
        note: One line to read with the table, or empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def matrix_table(matrix: ScoreMatrix) -> Table:
    """The score matrix as a table: a row per stage, a column per task, and the mean of the learned tasks.

    Caption tasks are marked, and where there are some a second mean leaves them out. A mean is given only
    where every task that it covers was measured.
    """
    marked = tuple(task + CAPTION_MARK * (task in matrix.captions) for task in matrix.tasks)
    rows: list[tuple[Cell, ...]] = []
    for index, (learned, row) in enumerate(zip(matrix.stages, matrix.scores, strict=True)):
        seen = seen_tasks(matrix, index)
        means = [mean_of(matrix.tasks, row, over=seen)]
        if matrix.captions:
            means.append(mean_of(matrix.tasks, row, over=[t for t in seen if t not in matrix.captions]))
        rows.append((index + 1, learned, *row, *means))
    if not matrix.captions:
        return Table(("stage", "learned", *marked, "mean seen"), tuple(rows))
    note = f"{CAPTION_MARK} caption metric: not a percentage; the last column averages without it"
    header = ("stage", "learned", *marked, "mean seen", WITHOUT_CAPTIONS.strip())
    return Table(header, tuple(rows), note)


def further_table(matrix: ScoreMatrix, cells: Cells) -> Table:
    """Further values by stage and task (MIF, another scorer), with the mean of the learned tasks.

    Columns without any value are left out.
    """
    scored = [i for i in range(len(matrix.tasks)) if any(row[i] is not None for row in cells)]
    names = [matrix.tasks[i] for i in scored]
    rows: list[tuple[Cell, ...]] = []
    for index, (learned, row) in enumerate(zip(matrix.stages, cells, strict=True)):
        values = [row[i] for i in scored]
        seen = seen_tasks(matrix, index)
        rows.append((index + 1, learned, *values, mean_of(names, values, over=seen)))
    return Table(("stage", "learned", *names, "mean seen"), tuple(rows))


def summary_table(summary: Mapping[str, float]) -> Table:
    """Summary metrics as a table, in the order given; where captions are apart, in a column of their own.

    A metric that is not defined (NaN, such as BWT after one stage) has no value.
    """
    values = {name: None if math.isnan(value) else value for name, value in summary.items()}
    whole = {name: value for name, value in values.items() if not name.endswith(WITHOUT_CAPTIONS)}
    if len(whole) == len(values):
        return Table(("metric", "value"), tuple(whole.items()))
    rows = [(name, value, values.get(name + WITHOUT_CAPTIONS)) for name, value in whole.items()]
    return Table(("metric", "value", WITHOUT_CAPTIONS.strip()), tuple(rows))


def seen_tasks(matrix: ScoreMatrix, index: int) -> list[str]:
    """Tasks learned by row `index`; a row that learned no single column (joint training) has learned all."""
    learned = matrix.stages[: index + 1]
    if any(task not in matrix.tasks for task in learned):
        return list(matrix.tasks)
    return [task for task in matrix.tasks if task in learned]


def mean_of(tasks: Sequence[str], row: Sequence[float | None], *, over: Sequence[str]) -> float | None:
    """Mean of a row over some of its tasks; None if there are none or one of them was not measured."""
    chosen = [value for task, value in zip(tasks, row, strict=True) if task in over]
    known = [value for value in chosen if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(chosen) else None


def spread(values: Sequence[float | None]) -> str:
    """Mean and, from two values on, standard deviation; empty where there is no value or one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return ""
    deviation = f" \u00b1 {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{deviation}"


def markdown(table: Table, *, digits: int = 2) -> str:
    """A Markdown table, numbers to the right; ends with a line break."""
    rows = [[_escaped(_shown(cell, digits)) for cell in row] for row in table.rows]
    numeric = _numeric_columns(table)
    lines = [
        [_escaped(name) for name in table.header],
        ["---:" if column in numeric else "---" for column in range(len(table.header))],
        *rows,
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    return text + (f"\n{_escaped(table.note)}\n" if table.note else "")


def csv_text(table: Table) -> str:
    """The table as CSV with every digit of its numbers; a missing value is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return text.getvalue()


def plain(table: Table, *, digits: int = 2) -> str:
    """Aligned text for a terminal, numbers to the right; ends with a line break."""
    lines = [list(table.header), *([_shown(cell, digits) for cell in row] for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    numeric = _numeric_columns(table)
    text = []
    for line in lines:
        padded = [
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(padded).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, *([table.note] if table.note else [])]) + "\n"


def _numeric_columns(table: Table) -> set[int]:
    return {
        column
        for column in range(len(table.header))
        if not any(isinstance(row[column], str) for row in table.rows)
    }


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)
