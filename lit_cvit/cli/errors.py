"""Errors that carry an exit status for the command line."""

from __future__ import annotations

import re

_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+))?")
_ADVICE = {
    "Killed": "most likely memory ran out: give fewer data.num_workers, each of which holds batches of its "
    "own (0 loads in the main process), or a smaller data.batch_size",
    "Bus error": "shared memory ran out: give fewer data.num_workers (0 needs none) or a smaller "
    "data.batch_size; in a container, more shared memory (--shm-size)",
}
_OTHER = "data.num_workers 0 shows what it died of"


class CleanExit(ValueError):
    """A user's error that ends a verb with a certain exit status.

    Args:
        message: What is wrong and what to do about it.
        status: Exit status; 2 means wrong usage.
    """

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def dead_worker(error: BaseException) -> str:
    """The message about a loader worker that died without an error of its own; empty for any other error."""
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    found = [match for each in causes if (match := _DEAD_WORKER.match(str(each)))]
    if not found:
        return ""
    killed = next((match.group(2) for match in found if match.group(2)), "")
    how = f"was ended by the system ({killed})" if killed else "ended unexpectedly"
    return f"a loader worker (process {found[-1].group(1)}) {how}; {_ADVICE.get(killed, _OTHER)}"
