"""Isolated runs: each task of a stream learned by itself, from the pre-trained model, in a run of its own.

Forward transfer is measured against them (ProgLoRA's FWT, see `lit_cvit.report.isolated`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence


class Isolated(Exception):
    """A configuration asks for isolated runs, which are not the one run that was about to begin.

    Args:
        tasks: The tasks of the stream.
        name: What the names of the runs begin with.
    """

    def __init__(self, tasks: Sequence[str], name: str) -> None:
        super().__init__(f"data.isolated: {', '.join(tasks)}")
        self.tasks, self.name = tasks, name


def fit_each(argv: Sequence[str], asked: Isolated) -> int:
    """Fit one task after the other; what is done is not done again with `--ckpt_path last`.

    Args:
        argv: The arguments of `fit` that ask for it.
        asked: What they ask for.

    Returns:
        0, or the status of the first run that did not end with 0, after which no further one begins.
    """
    for number, task in enumerate(asked.tasks, start=1):
        print(f"isolated run {number} of {len(asked.tasks)}: {task}", flush=True)
        # The last one of an option counts.
        own = ["--data.isolated=false", "--data.order=null", f"--data.tasks={json.dumps([task])}"]
        status = _in_process([*argv, *own, f"--name={asked.name}-{task}"])
        if status:
            return status
    return 0


def _in_process(arguments: list[str]) -> int:
    """Fit in a process of its own, which gets a SIGTERM that this one gets, as Ctrl-C reaches both."""
    process = subprocess.Popen([sys.executable, "-m", "lit_cvit", "fit", *arguments])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
