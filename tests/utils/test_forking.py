"""Processes that are forked from a common parent end with the one that asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from lit_cvit.utils.forking import forking
from lit_cvit.utils.processes import stop_with_starter

def child():
    signal.signal(signal.SIGTERM, lambda *_: (open("stopped", "w").close(), sys.exit(143)))
    stop_with_starter()
    open("ready", "w").close()
    time.sleep(60)

if __name__ == "__main__":
    forking(["json"], {"OMP_NUM_THREADS": "5"}).Process(target=child).start()
    time.sleep(60)
"""


def appears(path: Path) -> bool:
    for _ in range(600):
        if path.exists():
            return True
        time.sleep(0.05)
    return False


def test_a_process_gets_sigterm_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment) as process:
        assert appears(tmp_path / "ready")
        process.kill()
    assert appears(tmp_path / "stopped")
