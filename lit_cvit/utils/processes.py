"""Processes that end with the one that started them, however that one ends. It needs the standard library."""

from __future__ import annotations

import os
import threading
import time

_SECONDS = 0.5


def end_with(parent: int) -> None:
    """End this process with status 1 as soon as its parent has ended, also by SIGKILL.

    A parent that is killed ends none of its children. They would wait for it, some for good, and hold what
    they got from it: its output, which a reader behind a pipe waits for, and its open files.

    Args:
        parent: Process id of the parent; where another process has taken its place, this one ends at once.
    """
    watch = threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True)
    watch.start()


def end_with_parent(worker: int = 0) -> None:
    """End this process as soon as its parent has ended (see `end_with`).

    Args:
        worker: Number that a loader gives its workers; unused.
    """
    end_with(os.getppid())


def _watch(parent: int) -> None:
    # Not multiprocessing's sentinel: forked processes hold one another's, so none would see it close.
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
