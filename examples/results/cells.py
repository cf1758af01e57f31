"""Cells of a table: each a run folder, resumable, made by any number of processes side by side."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lit_cvit.__main__ import main as lit_cvit
from lit_cvit.run import RunFolder, Status


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: Its name, which is its folder's.
        arguments: Arguments of `python -m lit_cvit fit`.
        after: Name of the cell that it starts from, if any.
    """

    name: str
    arguments: tuple[str, ...]
    after: str = ""


def is_finished(folder: Path) -> bool:
    """Whether a cell's run has evaluated all its stages."""
    if not (folder / "run.json").is_file():
        return False
    record = RunFolder.open(folder).record
    stages = [stage.status for stage in record.stages]
    return len(stages) == record.num_stages and set(stages) == {Status.EVALUATED}


def run_cell(cell: Cell, root: Path) -> None:
    """Run or continue a cell.

    Raises:
        SystemExit: the run failed, or the cell it starts from is not there.
    """
    if cell.after and not is_finished(root / cell.after):
        sys.exit(
            f"cell {cell.name} starts from {cell.after}, which is not finished; another process makes it?"
        )
    start = ("--start_from", str(root / cell.after)) if cell.after else ()
    resume = ("--ckpt_path", "last") if (root / cell.name).exists() else ()
    status = lit_cvit(["fit", *cell.arguments, *start, *resume, "--run_root", str(root), "--name", cell.name])
    if status:
        sys.exit(f"cell {cell.name} failed with status {status}")


@contextlib.contextmanager
def claimed(root: Path, name: str) -> Iterator[bool]:
    """Whether this process is the one that makes a cell; the claim ends with the block or the process."""
    folder = root / ".claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def command(
    cells: Iterable[Cell], write: Callable[[Path, TextIO], None], root: str, description: str | None
) -> None:
    """The command line of a table: `run` its cells, `list` them, or print the `table` of what is finished."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("what", choices=("run", "table", "list"))
    parser.add_argument("--root", type=Path, default=Path(root))
    parser.add_argument("--only", default="", help="cells whose names begin with this")
    options = parser.parse_args()
    if options.what == "table":
        write(options.root, sys.stdout)
        return
    for cell in cells:
        if not cell.name.startswith(options.only):
            continue
        with claimed(options.root, cell.name) as mine:
            finished = is_finished(options.root / cell.name)
            state = "finished" if finished else "to do" if mine else "in the making"
            print(f"{cell.name}: {state}", flush=True)
            if options.what == "run" and mine and not finished:
                run_cell(cell, options.root)
