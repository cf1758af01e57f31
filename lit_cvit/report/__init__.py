"""Tables and figures of a finished (or stopped) run; nothing here loads a model."""

from __future__ import annotations

from lit_cvit.report.matrix_plots import matrix_figure
from lit_cvit.report.plots import png
from lit_cvit.report.summary import headline, run_summary
from lit_cvit.report.tables import (
    Table,
    csv_text,
    further_table,
    markdown,
    matrix_table,
    plain,
    summary_table,
)
from lit_cvit.report.write import run_title, write_report

__all__ = [
    "Table",
    "csv_text",
    "headline",
    "markdown",
    "matrix_figure",
    "matrix_table",
    "further_table",
    "plain",
    "png",
    "run_summary",
    "run_title",
    "summary_table",
    "write_report",
]
