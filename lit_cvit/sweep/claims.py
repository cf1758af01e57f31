"""Claims: a cell is made by one living process at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process is the one that makes a cell; the claim ends with the block or the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_claimed(path: Path) -> bool:
    """Whether a living process makes a cell."""
    if not path.is_file():
        return False
    with claimed(path) as mine:
        return not mine
