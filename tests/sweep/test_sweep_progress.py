"""What a person sees: states, time left, lines without a terminal and a table on one."""

from __future__ import annotations

import io

from rich.console import Console
from sweep_kit import small_result, sweep_of

from lit_cvit.sweep import CellState, State
from lit_cvit.sweep.progress import lines, seconds_left, summary, table

SWEEP = sweep_of(seeds=[0, 1], cells={"A": "", "B": ""})
A0, B0, A1, B1 = SWEEP.cells
DONE = CellState(A0, State.DONE, 2, 2, 100.0, result=small_result("A", 0))
STATES = [
    DONE,
    CellState(B0, State.FAILED, 1, 2, 50.0, note="out of luck"),
    CellState(A1, State.RUNNING, 1, 2, 40.0),
    CellState(B1, State.TO_DO),
]


def test_time_left_is_that_of_the_same_name_with_another_seed_else_of_all() -> None:
    slow = CellState(B0, State.DONE, 2, 2, 500.0)
    assert seconds_left([DONE, slow, CellState(A1, State.TO_DO)]) == 100.0
    assert seconds_left([DONE, slow, CellState(B1, State.RUNNING, seconds=450.0)]) == 50.0
    # Of what a cell has taken longer than was expected, nothing is taken off the others.
    assert (
        seconds_left([DONE, CellState(A1, State.RUNNING, seconds=900.0), CellState(B1, State.TO_DO)]) == 100
    )
    assert seconds_left([CellState(A1, State.TO_DO)]) is None
    assert seconds_left([DONE]) is None


def test_lines_say_how_far_each_cell_is_and_why_one_failed() -> None:
    assert lines(STATES) == [
        "A-0: done, 2 of 2 stages, AP 80.0, BWT -40.0, MIF 80.0",
        "B-0: failed, 1 of 2 stages: out of luck",
        "A-1: running, 1 of 2 stages",
        "B-1: to do",
    ]


def test_the_summary_counts_and_gives_the_time_left() -> None:
    assert summary(STATES) == "4 cells: 1 done, 1 running, 1 failed, 1 to do; about 4 min left"


def test_the_table_has_a_row_for_each_cell() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.print(table(STATES))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [
        [cell.strip() for cell in line.split("\u2502")[1:-1]]
        for line in text.splitlines()
        if "\u2502" in line
    ]
    assert rows == [
        ["A-0", "done", "2/2", "2 min", "80.0", "-40.0", "80.0", ""],
        ["B-0", "failed", "1/2", "50 s", "", "", "", "out of luck"],
        ["A-1", "running", "1/2", "40 s", "", "", "", ""],
        ["B-1", "to do", "", "", "", "", "", ""],
    ]
