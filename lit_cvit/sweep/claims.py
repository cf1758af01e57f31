"""Claims: a cell is made by one living process at a time, which holds the lock of the cell's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lit_cvit.run.lock import RunInUse, RunLock, holder_of


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process is the one that makes a cell; the claim ends with the block or the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunLock.acquire(folder)
    except RunInUse:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_claimed(folder: Path) -> bool:
    """Whether a living process makes a cell."""
    return holder_of(folder) is not None
