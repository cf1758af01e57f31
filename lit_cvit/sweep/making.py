"""What the process of one cell does: `fit`, then the results. Everything that it needs is imported here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_cvit.cli.errors import dead_worker
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.report.results import MEASURED, result_of, write_result
from lit_cvit.run import RunFolder
from lit_cvit.run.lock import holder_of
from lit_cvit.sweep.cells import Sweep
from lit_cvit.sweep.checking import Checked
from lit_cvit.sweep.claims import claimed
from lit_cvit.sweep.states import has_evaluated
from lit_cvit.utils.processes import stop_with_starter

# Exit status where another process has the cell.
TAKEN = 75
# What a run folder may hold that was cut off before anything of the run was.
_OF_THE_START = ("config.yaml", ".config.yaml.tmp", ".run.json.tmp", ".lock")


@dataclass(frozen=True)
class Job:
    """A cell for a process.

    Attributes:
        sweep: The sweep.
        checked: The cell.
        folder: Current folder, which relative paths count from.
    """

    sweep: Sweep
    checked: Checked
    folder: Path


def make(job: Job) -> None:
    """Make a cell in this process, which ends with the status of `fit`, or with `TAKEN`."""
    sweep, cell = job.sweep, job.checked.cell
    if os.name == "posix":
        # Ctrl-C in a terminal reaches the parent alone, which stops its cells by SIGTERM.
        os.setpgrp()
    stop_with_starter()
    os.chdir(job.folder)
    with claimed(sweep.folder(cell)) as mine:
        if not mine:
            sys.exit(TAKEN)
        _print_into(sweep.log_path(cell))
        sweep.failure_path(cell).unlink(missing_ok=True)
        try:
            _make(sweep, job.checked)
        except (ValueError, OSError) as error:
            print(f"lit_cvit fit: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            traceback.print_exc()
            if died := dead_worker(error):
                print(f"lit_cvit fit: {died}", file=sys.stderr)
            sys.exit(1)


def _print_into(path: Path) -> None:
    """Append what this process and its children print to a file."""
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)


def _make(sweep: Sweep, checked: Checked) -> None:
    cell, path = checked.cell, sweep.run_path(checked.cell)
    _remove_remains(path)
    if not has_evaluated(path):
        start = time.monotonic()
        _fit(sweep.fit_arguments(cell))
        _note_measured(path, time.monotonic() - start)
    write_cell_result(sweep, checked)


def _fit(arguments: list[str]) -> None:
    print(f"lit_cvit fit {' '.join(arguments)}", flush=True)
    # Lightning starts further ranks with the command line of the process, which is that of the sweep.
    sys.argv = ["lit_cvit", "fit", *arguments]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lit_cvit.__main__")
    StreamCLI(arguments)


def _remove_remains(path: Path) -> None:
    """Remove a folder in which a run was cut off before it had a record.

    Raises:
        ValueError: something else is in it.
    """
    if not path.exists() or (path / "run.json").is_file():
        return
    if holder := holder_of(path):
        raise ValueError(f"{path} is in use by {holder}")
    odd = sorted(each.name for each in path.iterdir() if not each.name.startswith(_OF_THE_START))
    if odd:
        raise ValueError(f"{path} is no run folder, it holds {odd[0]}; move it away")
    for each in path.iterdir():
        each.unlink()
    path.rmdir()


def write_cell_result(sweep: Sweep, checked: Checked) -> None:
    """Write the results of a cell whose run has evaluated all its stages.

    Raises:
        ValueError: the run cannot be read.
    """
    cell = checked.cell
    result = result_of(
        RunFolder.open(sweep.run_path(cell)),
        sweep=sweep.name,
        name=cell.name,
        group=cell.group,
        config=checked.config,
        start_from=cell.start_from or None,
    )
    write_result(sweep.result_path(cell), result)


def _note_measured(path: Path, seconds: float) -> None:
    """Put into the run's record what can be measured only in the process that ended it."""
    run = RunFolder.open(path)
    run.record.facts[MEASURED] = {
        "seconds": round(seconds, 1),
        "peak_memory": _peak_memory(),
        "accelerator_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,
        "commit": code_commit(),
    }
    run.writer.lock(path)
    try:
        run.save_record()
    finally:
        run.writer.unlock()


def _peak_memory() -> int | None:
    """Bytes of main memory that this process held at most; None where the system does not say."""
    if os.name != "posix":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def code_commit() -> str | None:
    """The commit of the code, with `+` where files differ from it; None where the code is in no checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changed = (
            _git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit.strip()}{'+' if changed.strip() else ''}"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout
