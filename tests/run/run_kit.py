"""What the tests of the run folder share: a small run, and a process that ends at a chosen event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lit_cvit.run import RunFolder, RunRecord, TaskScore, Writer

TASKS = ("ScienceQA", "OCR/VQA")


def new_record(**changes: Any) -> RunRecord:
    fixed: dict[str, Any] = {
        "seed": 0,
        "config_digest": "digest",
        "stream": list(TASKS),
        "captions": ["OCR/VQA"],
        "created": "2030-01-01T00:00:00+00:00",
    }
    return RunRecord(**{**fixed, **changes})


def make_run(root: Path, *, num_stages: int = 1, writer: Writer | None = None) -> RunFolder:
    run = RunFolder.create(root, "quick", "seed: 0\n", record=new_record(), writer=writer)
    for stage in range(1, num_stages + 1):
        run.plan_stage(stage, TASKS[stage - 1], {"grow": stage})
        run.save_stage(stage, {"w": torch.full((4,), float(stage))}, {"blocks": stage})
    return run


def score(value: float, **more: Any) -> TaskScore:
    return TaskScore(score=value, count=10, **more)


class Killed(BaseException):
    """Stands for the end of the process: nothing may handle it."""


class KillAt:
    """Ends the process at the n-th event, counting every event of every write."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        self.count = 0

    def __call__(self, event: str, path: Path) -> None:
        if self.count == self.number:
            raise Killed
        self.count += 1
