"""The metrics of a run as `torchmetrics.Metric`: fed with the score of a task after a stage, in percent.

Tables and loggers read them through `lit_cvit.report.run_summary`. The formulas and their sources are in
`lit_cvit.metrics.continual`. A task's own score is no `Metric`: CIDEr, BLEU and METEOR belong to the whole
split, and no sum over batches or ranks gives them. Ranks exchange texts, which `torchmetrics` cannot carry,
and a scorer reads the whole split; see `lit_cvit.metrics.scoring`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cvit.metrics.continual import FORMULAS, WITHOUT_CAPTIONS, Formula, Mask, proglora_fwt


class ContinualMetric(Metric):
    """A metric of the score matrix.

    `update` may be called in any order; calling the metric itself makes no sense, because one task has no
    matrix. `compute` reads the metric after the latest stage that has scores; without any it is NaN.
    Ranks may hold the same scores or each a part of them.

    Args:
        formula: Score matrix to metric; one of `lit_cvit.metrics.continual`.
        num_tasks: Columns of the matrix: the tasks of the stream, then any that are never learned.
        num_stages: Rows of the matrix; default one per task.
        keep: Mask of the tasks that count; default all.
        **kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: there is no stage, there are more stages than tasks, or the mask does not fit.
    """

    full_state_update = False
    is_differentiable = False
    scores: Tensor

    def __init__(
        self,
        formula: Formula,
        num_tasks: int,
        *,
        num_stages: int | None = None,
        keep: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shape = (num_tasks if num_stages is None else num_stages, num_tasks)
        if not 1 <= shape[0] <= num_tasks:
            raise ValueError(f"got {shape[0]} stages for {num_tasks} tasks; allowed are 1 to {num_tasks}")
        self.formula = formula
        self.keep = [True] * num_tasks if keep is None else [bool(each) for each in keep]
        if len(self.keep) != num_tasks:
            raise ValueError(f"keep has {len(self.keep)} entries for {num_tasks} tasks")
        empty = torch.full(shape, math.nan, dtype=torch.float64)
        self.add_state("scores", empty, dist_reduce_fx=_joined)

    def update(self, stage: int, task: int, score: float) -> None:
        """Set the score of a task after a stage.

        Args:
            stage: Number of the stage, from 1.
            task: Number of the task, from 1; task j is learned in stage j.
            score: Percent, as `Scorer.score` gives it for the whole split.

        Raises:
            ValueError: stage or task is outside the matrix.
        """
        for name, number, most in zip(("stage", "task"), (stage, task), self.scores.shape, strict=True):
            if not 1 <= number <= most:
                raise ValueError(f"{name} {number} is outside the score matrix; allowed are 1 to {most}")
        self.scores[stage - 1, task - 1] = score

    def compute(self) -> Tensor:
        """Return the metric after the latest stage that has scores, a float64 scalar.

        Raises:
            MissingScore: a score that the metric needs was never given; names stage and task.
        """
        stages = (~self.scores.isnan()).any(dim=1).nonzero()
        value = math.nan
        if len(stages):
            value = self.formula(self.scores, stage=int(stages.max()) + 1, keep=self.keep)
        return torch.tensor(value, dtype=torch.float64, device=self.scores.device)


def continual_metrics(
    num_tasks: int,
    *,
    num_stages: int | None = None,
    captions: Mask | None = None,
    isolated: Sequence[float] | Tensor | None = None,
    **kwargs: Any,
) -> dict[str, ContinualMetric]:
    """Every metric of scores by its name in tables; MIF reads other percentages and is not among them.

    Args:
        num_tasks: Columns of the matrix.
        num_stages: Rows of the matrix; default one per task.
        captions: (num_tasks,) True for tasks scored by a caption metric. If some tasks of the stages are
            captions and some are not, each metric appears again, " without captions", over the others.
        isolated: (num_tasks,) scores of the same method trained on each task alone, for "ProgLoRA FWT".
        **kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: as for `ContinualMetric`.
    """
    formulas: dict[str, Formula] = dict(FORMULAS)
    if isolated is not None:
        formulas["ProgLoRA FWT"] = partial(proglora_fwt, isolated=isolated)
    settings = {"num_tasks": num_tasks, "num_stages": num_stages, **kwargs}
    metrics = {name: ContinualMetric(formula, **settings) for name, formula in formulas.items()}
    keep = [True] * num_tasks if captions is None else [not bool(each) for each in captions]
    if len(set(keep[:num_stages])) == 2:
        metrics |= {
            name + WITHOUT_CAPTIONS: ContinualMetric(formula, keep=keep, **settings)
            for name, formula in formulas.items()
        }
    return metrics


def _joined(by_rank: Tensor) -> Tensor:
    """One matrix out of those of the ranks, (ranks, T, N), which agree where several have a score."""
    low, high = by_rank.nan_to_num(math.inf).amin(0), by_rank.nan_to_num(-math.inf).amax(0)
    differing = (high > low).nonzero().tolist()
    if differing:
        stage, task = (index + 1 for index in differing[0])
        raise ValueError(f"the ranks hold different scores of task {task} after stage {stage}")
    return torch.where(high.isinf(), math.nan, high)
