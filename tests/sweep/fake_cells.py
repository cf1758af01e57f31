"""Cells without a run: a process that claims, leaves a file, and by its cell's name fails or waits."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from lit_cvit.sweep.cells import Sweep
from lit_cvit.sweep.checking import Checked
from lit_cvit.sweep.claims import claimed
from lit_cvit.sweep.making import TAKEN, Job


def make(job: Job) -> None:
    """In place of `lit_cvit.sweep.making.make`."""
    sweep, cell = job.sweep, job.checked.cell
    with claimed(sweep.folder(cell)) as mine:
        if not mine:
            sys.exit(TAKEN)
        with (sweep.run_root / "made.txt").open("a") as file:
            file.write(f"{cell.name}\n")
        sweep.log_path(cell).write_text(f"some\nlast words of {cell.name}\n\n")
        if cell.group.startswith("fails"):
            sys.exit(1)
        if cell.group.startswith("waits"):
            signal.signal(signal.SIGTERM, lambda *_: _stop(sweep, cell.name))
            (sweep.run_root / "waiting").touch()
            time.sleep(60)
        finish(sweep, job.checked)


def _stop(sweep: Sweep, name: str) -> None:
    (sweep.run_root / f"{name}.checkpoint").touch()
    sys.exit(143)


def finish(sweep: Sweep, checked: Checked) -> None:
    """Leave what `is_done` looks for."""
    sweep.run_path(checked.cell).mkdir(parents=True, exist_ok=True)
    sweep.results.mkdir(parents=True, exist_ok=True)
    sweep.result_path(checked.cell).touch()


def is_done(sweep: Sweep, checked: Checked) -> bool:
    """In place of `lit_cvit.sweep.states.is_done`."""
    return sweep.result_path(checked.cell).is_file()


def has_evaluated(path: Path) -> bool:
    """In place of `lit_cvit.sweep.states.has_evaluated`."""
    return path.is_dir()
