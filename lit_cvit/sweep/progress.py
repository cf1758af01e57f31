"""What a person sees of a sweep: a table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_cvit.sweep.cells import Cell, Sweep
from lit_cvit.sweep.checking import Checked
from lit_cvit.sweep.states import CellState, State, state_of
from lit_cvit.utils.wording import counted

_STYLES = {State.DONE: "green", State.RUNNING: "cyan", State.FAILED: "red", State.TO_DO: "dim"}
# Columns of the table with the metrics of finished cells.
_METRICS = ("AP", "BWT", "MIF")
_EVERY = 5.0


class Progress:
    """Shows cells as they begin and end.

    Args:
        sweep: The sweep.
        checked: The cells that are shown.
        console: Where to.
    """

    def __init__(self, sweep: Sweep, checked: Sequence[Checked], console: Console) -> None:
        self.sweep, self.checked, self.console = sweep, checked, console
        # Its last form is printed whole, however many rows there are.
        live = Live(console=console, auto_refresh=False, transient=True)
        self._live = live if console.is_terminal else None
        self._shown = -math.inf

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self.show(now=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        states = self.states()
        if self._live is not None:
            self._live.stop()
            self.console.print(table(states))
            for each in states:
                if each.state is State.FAILED:
                    line = failed_line(each.cell, each.note, self.sweep.log_path(each.cell))
                    self.console.print(line, markup=False)
        self.console.print(summary(states))

    def begins(self, cell: Cell) -> None:
        """A cell begins, or goes on."""
        self._say(f"{cell.name}: begins")

    def ends(self, checked: Checked) -> None:
        """A cell is finished."""
        done = state_of(self.sweep, checked)
        found = [f"{name} {value}" for name, value in _metrics(done).items() if value]
        self._say(
            f"{checked.cell.name}: done in {_minutes(done.seconds)}{', ' * bool(found)}{', '.join(found)}"
        )

    def fails(self, cell: Cell, reason: str, log: Path) -> None:
        """A cell has failed."""
        self._say(failed_line(cell, reason, log))

    def show(self, *, now: bool = False) -> None:
        """Bring the table up to date, not more often than every few seconds unless it has to be `now`."""
        if self._live is None or (not now and time.monotonic() - self._shown < _EVERY):
            return
        self._shown = time.monotonic()
        states = self.states()
        most = self.console.height - 6
        rows = states
        if len(states) > most:
            rows = [each for each in states if each.state in (State.RUNNING, State.FAILED)]
        self._live.update(Group(table(rows[:most]), Text(summary(states))), refresh=True)

    def states(self) -> list[CellState]:
        """How far every cell is now."""
        return [state_of(self.sweep, each) for each in self.checked]

    def _say(self, line: str) -> None:
        if self._live is None:
            self.console.print(line, markup=False)
        else:
            self.show(now=True)


def failed_line(cell: Cell, reason: str, log: Path) -> str:
    """Why a cell failed, and where its output is."""
    return f"{cell.name}: failed: {reason}; its output is in {log}"


def table(states: Sequence[CellState]) -> Table:
    """The cells as a table for a terminal."""
    made = Table("cell", "state", "stages", "time", *_METRICS, "why")
    for column in made.columns[2:-1]:
        column.justify = "right"
    for each in states:
        stages = f"{each.stages}/{each.num_stages}" if each.num_stages else ""
        seconds = _minutes(each.seconds) if each.seconds else ""
        shown = Text(str(each.state), style=_STYLES[each.state])
        made.add_row(each.cell.name, shown, stages, seconds, *_metrics(each).values(), Text(each.note))
    return made


def lines(states: Sequence[CellState]) -> list[str]:
    """The cells as plain lines."""
    rows = []
    for each in states:
        stages = f", {each.stages} of {each.num_stages} stages" if each.num_stages else ""
        found = "".join(f", {name} {value}" for name, value in _metrics(each).items() if value)
        rows.append(f"{each.cell.name}: {each.state}{stages}{found}{f': {each.note}' if each.note else ''}")
    return rows


def summary(states: Sequence[CellState]) -> str:
    """How many cells are how far, and what is left of processor time, as finished cells of the sweep took."""
    counts = {state: sum(each.state is state for each in states) for state in State}
    words = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    left = seconds_left(states)
    running = max(1, counts[State.RUNNING])
    time_left = f"; about {_minutes(left / running)} left" if left else ""
    return f"{counted(len(states), 'cell')}: {words}{time_left}"


def seconds_left(states: Sequence[CellState]) -> float | None:
    """Seconds that what is left would take one process after the other; None where no cell is finished.

    A cell takes as long as those that differ in the seed alone took on average, else as all did.
    """
    done = [each for each in states if each.state is State.DONE]
    left = [each for each in states if each.state is not State.DONE]
    if not done or not left:
        return None
    overall = math.fsum(each.seconds for each in done) / len(done)

    def expected(state: CellState) -> float:
        alike = [each.seconds for each in done if each.cell.group == state.cell.group]
        whole = math.fsum(alike) / len(alike) if alike else overall
        return max(0.0, whole - state.seconds)

    return math.fsum(expected(each) for each in left)


def _metrics(state: CellState) -> Mapping[str, str]:
    metrics = state.result.metrics if state.result is not None else {}
    return {name: f"{value:.1f}" if (value := metrics.get(name)) is not None else "" for name in _METRICS}


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
