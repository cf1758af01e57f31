"""A process that ends with its parent, also where the parent is killed and the process is busy."""

from __future__ import annotations

import os
import signal
import time

from process_kit import SECONDS, ends_after_its_parent

from lit_cvit.utils.processes import end_with, end_with_parent


def test_a_process_whose_parent_is_killed_ends_and_lets_go_of_its_output() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            end_with_parent()
            os.write(writing, b".")
            time.sleep(10 * SECONDS)
        signal.pause()
    os.close(writing)
    assert ends_after_its_parent(parent, reading)
    os.close(reading)


def test_a_process_whose_parent_has_ended_before_ends_at_once() -> None:
    child = os.fork()
    if child == 0:
        # The parent that started it would be another one.
        end_with(os.getpid())
        time.sleep(SECONDS)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
