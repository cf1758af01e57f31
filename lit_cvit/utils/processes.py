"""Processes that end with the one that started them, however that one ends. It needs the standard library."""

from __future__ import annotations

import multiprocessing
import os
import signal
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


def stop_with_starter() -> None:
    """Send SIGTERM to this process as soon as the one that started it has ended, also by SIGKILL.

    For processes of `utils.forking`: their parent is the server that they were forked from, which is not the
    process that asked for them. A run that gets SIGTERM writes a checkpoint first.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None, "this is no process of multiprocessing"

    def wait() -> None:
        starter.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop-with-starter", daemon=True).start()


def _watch(parent: int) -> None:
    # Not multiprocessing's sentinel: forked processes hold one another's, so none would see it close.
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
