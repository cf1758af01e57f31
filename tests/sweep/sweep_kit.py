"""What the tests of sweeps share: sweeps out of plain values, and results without a run."""

from __future__ import annotations

import math
from typing import Any

from lit_cvit.report import run_summary
from lit_cvit.report.results import Result
from lit_cvit.run import ScoreMatrix
from lit_cvit.sweep import Sweep, build_sweep


def sweep_of(name: str = "study", more: tuple[str, ...] = (), **values: Any) -> Sweep:
    """A sweep of that name, by default of one cell."""
    return build_sweep(name, {"cells": {"A": "--model SeqLoRA"}, **values}, more=more)


def names(sweep: Sweep) -> list[str]:
    return [cell.name for cell in sweep.cells]


def small_result(group: str, seed: int, *, own: float = 80.0, end: float = 40.0) -> Result:
    """Results of two stages: a task and captions, of which the first falls from `own` to `end`."""
    matrix = ScoreMatrix(
        tasks=("GQA", "Flickr30k"),
        captions=("Flickr30k",),
        stages=("GQA", "Flickr30k"),
        scores=[[own, None], [end, 120.0]],
        mif=[[100.0, None], [90.0, 70.0]],
        also={"exact_content": [[None, None], [None, 30.0]]},
    )
    held_out = ScoreMatrix(("VizWiz",), (), ("GQA", "Flickr30k"), [[None], [12.5]], [[None], [60.0]])
    return Result(
        sweep="study",
        name=f"{group}-{seed}",
        group=group,
        seed=seed,
        start_from=None,
        run={"method": group, "config_digest": "00", "machine": {"num_threads": 1}},
        config={"seed_everything": seed},
        stages=[
            {
                "stage": stage,
                "task": task,
                "seconds": {"train": 60.0, "evaluate": 30.0},
                "facts": {"parameters": {"trainable": 2000, "stored": 2000 * stage, "backbone": 10**6}},
            }
            for stage, task in enumerate(matrix.stages, start=1)
        ],
        matrix=matrix,
        downstream=held_out,
        metrics={name: value for name, value in run_summary(matrix).items() if math.isfinite(value)},
        measured={"seconds": 190.0, "peak_memory": 2**30, "accelerator_memory": None, "commit": None},
    )
