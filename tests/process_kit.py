"""What the tests of processes share."""

from __future__ import annotations

import os
import select
import signal

# A limit against processes that hang, not a budget.
SECONDS = 60.0


def ends_after_its_parent(pid: int, reading: int) -> bool:
    """Kill a process once there is a byte in a pipe; whether all that write to it have ended soon after."""
    assert os.read(reading, 1) == b"."
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    readable, _, _ = select.select([reading], [], [], SECONDS)
    return bool(readable) and os.read(reading, 1) == b""
