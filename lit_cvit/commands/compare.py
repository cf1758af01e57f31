"""compare: put runs side by side: means over seeds, and differences to the first with 95 % intervals.

Runs that differ in their seed alone are one row. The others are held against the first: the interval is that
of a paired bootstrap over seeds and test samples. Runs that were tested or scored in another way are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cvit.cli.verb_parser import VerbParser

if TYPE_CHECKING:
    from rich.console import Console

    from lit_cvit.report.tables import Table


def run(argv: Sequence[str]) -> int:
    """Run the verb; prints the tables, and writes them into the folder `--out` if it is given."""
    parser = VerbParser("compare", __doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="run folders, or results of a sweep: JSON files or their folder; the first is the reference",
    )
    parser.add_argument(
        "--isolated",
        nargs="+",
        type=Path,
        metavar="PATH",
        default=[],
        help="runs of each task alone (`fit --data.isolated true`), or their results: gives ProgLoRA's FWT",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for compare.md and compare.csv")
    chosen = parser.parse_args(argv)

    from rich.console import Console

    from lit_cvit.report import compare_tables
    from lit_cvit.report.compare import compare
    from lit_cvit.run import Writer

    comparison = compare(chosen.paths, chosen.isolated)
    console = Console(highlight=False, soft_wrap=True)
    for line in compare_tables.heading(comparison):
        console.print(line, markup=False)
    show(compare_tables.measured_table(comparison), console)
    differences = compare_tables.difference_table(comparison)
    if differences is not None:
        console.print(f"\n{compare_tables.difference_title(comparison)}", markup=False)
        show(differences, console)
    if chosen.out is not None:
        writer = Writer()
        writer.write_text(chosen.out / "compare.md", compare_tables.page(comparison))
        writer.write_text(chosen.out / "compare.csv", compare_tables.csv_page(comparison))
        console.print(f"\nwrote compare.md and compare.csv into {chosen.out}", markup=False)
    return 0


def show(table: Table, console: Console) -> None:
    """Print a table: with lines on a terminal, as aligned text elsewhere."""
    from rich import table as rich_table
    from rich.text import Text

    from lit_cvit.report.tables import plain

    if not console.is_terminal:
        console.print(plain(table).rstrip("\n"), markup=False)
        return
    made = rich_table.Table()
    for name in table.header:
        first = not made.columns
        made.add_column(Text(name), justify="left" if first else "right", overflow="fold", no_wrap=first)
    for row in table.rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(made, soft_wrap=False)
    if table.note:
        console.print(table.note, markup=False)
