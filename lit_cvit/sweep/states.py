"""How far a cell is, read from the disk: other processes may make cells of the same sweep."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from pathlib import Path

from lit_cvit.report.results import Result, read_result
from lit_cvit.run import RunFolder, Status, Writer, read_json
from lit_cvit.sweep.cells import Cell, Sweep
from lit_cvit.sweep.checking import Checked, other_run
from lit_cvit.sweep.claims import is_claimed


class State(enum.StrEnum):
    """How far a cell is."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    TO_DO = "to do"


@dataclass(frozen=True)
class CellState:
    """A cell and how far it is.

    Attributes:
        cell: The cell.
        state: How far it is.
        stages: Stages that are learned and scored.
        num_stages: Stages that the run will have; 0 before it has begun.
        seconds: Seconds of training and evaluation so far.
        note: Why it failed, or why its run folder is refused.
        result: Its results, if it is done.
    """

    cell: Cell
    state: State
    stages: int = 0
    num_stages: int = 0
    seconds: float = 0.0
    note: str = ""
    result: Result | None = None


def state_of(sweep: Sweep, checked: Checked) -> CellState:
    """How far a cell is."""
    cell = checked.cell
    run = _run(sweep.run_path(cell))
    stages = [] if run is None else [each for each in run.record.stages if each.status is Status.EVALUATED]
    seconds = 0.0 if run is None else sum(sum(stage.seconds.values()) for stage in run.record.stages)
    num_stages = 0 if run is None else run.record.num_stages
    state, note, result = State.TO_DO, "", None
    if is_claimed(sweep.folder(cell)):
        state = State.RUNNING
    elif (
        run is not None
        and is_evaluated(run)
        and (result := stored_result(sweep, checked)) is not None
        and not other_run(sweep, checked)
    ):
        state = State.DONE
    elif failed := failure(sweep.failure_path(cell)):
        state, note = State.FAILED, failed.reason
    if state is State.TO_DO:
        note = other_run(sweep, checked)
    return CellState(cell, state, len(stages), num_stages, seconds, note, result)


def _run(path: Path) -> RunFolder | None:
    return RunFolder.open(path) if (path / "run.json").is_file() else None


def has_evaluated(path: Path) -> bool:
    """Whether a folder holds a run that has evaluated all its stages."""
    run = _run(path)
    return run is not None and is_evaluated(run)


def is_evaluated(run: RunFolder) -> bool:
    """Whether a run has evaluated all its stages."""
    stages = [stage.status for stage in run.record.stages]
    return len(stages) == run.record.num_stages and set(stages) == {Status.EVALUATED}


def is_done(sweep: Sweep, checked: Checked) -> bool:
    """Whether a cell's run has evaluated all its stages, and its results are written."""
    return has_evaluated(sweep.run_path(checked.cell)) and stored_result(sweep, checked) is not None


def stored_result(sweep: Sweep, checked: Checked) -> Result | None:
    """The results of a cell, or None where there are none, or those of an earlier configuration."""
    path = sweep.result_path(checked.cell)
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except ValueError:
        # Of another schema, or damaged: they are written again from the run folder.
        return None
    return result if result.run.get("config_digest") == checked.digest else None


@dataclass(frozen=True)
class Failure:
    """Why an attempt at a cell failed.

    Attributes:
        reason: In one line.
        when: Seconds since the epoch.
    """

    reason: str
    when: float


def failure(path: Path) -> Failure | None:
    """Why the last attempt at a cell failed, or None."""
    return Failure(**read_json(path)) if path.is_file() else None


def note_failure(path: Path, reason: str) -> None:
    """Keep why an attempt at a cell failed, until the next one."""
    Writer().write_json(path, {"reason": reason, "when": time.time()})
