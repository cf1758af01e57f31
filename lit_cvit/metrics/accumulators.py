"""The continual-learning metrics as `torchmetrics.Metric`: they gather sample scores over stages and ranks.

The states are sums and counts per (stage, task), so ranks add up to exactly what one process would have seen.
The formulas and their sources are in `lit_cvit.metrics.continual`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cvit.metrics import continual
from lit_cvit.metrics.continual import Mask


class ContinualMetric(Metric):
    """A metric of the score matrix; subclasses name their formula.

    `update` may be called in any order and any number of times (calling the metric itself makes no sense: one
    batch has no matrix); `compute` reads the metric after the latest stage that has scores, and is NaN before
    there are any.

    Args:
        num_tasks: Columns of the matrix: the tasks of the stream, then any that are never learned.
        num_stages: Rows of the matrix; default one per task.
        keep: Mask of the tasks that count; default all.
        **kwargs: Passed on to `torchmetrics.Metric`.

    Raises:
        ValueError: there is no stage, there are more stages than tasks, or the mask does not fit.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    sums: Tensor
    counts: Tensor

    def __init__(
        self, num_tasks: int, *, num_stages: int | None = None, keep: Mask | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        shape = (num_tasks if num_stages is None else num_stages, num_tasks)
        if not 1 <= shape[0] <= num_tasks:
            raise ValueError(f"got {shape[0]} stages for {num_tasks} tasks; allowed are 1 to {num_tasks}")
        self.keep = [True] * num_tasks if keep is None else [bool(each) for each in keep]
        if len(self.keep) != num_tasks:
            raise ValueError(f"keep has {len(self.keep)} entries for {num_tasks} tasks")
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @staticmethod
    def formula(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
        """The metric of a matrix, as in `lit_cvit.metrics.continual`."""
        raise NotImplementedError

    def update(self, stage: int, task: int, scores: Tensor | Sequence[float]) -> None:
        """Add per-sample scores of a task after a stage.

        Args:
            stage: Number of the stage, from 1.
            task: Number of the task, from 1; task j is learned in stage j.
            scores: One number from a scorer per sample; 1 is 100 percent.

        Raises:
            ValueError: stage or task is outside the matrix.
        """
        for name, number, most in zip(("stage", "task"), (stage, task), self.counts.shape, strict=True):
            if not 1 <= number <= most:
                raise ValueError(f"{name} {number} is outside the score matrix; allowed are 1 to {most}")
        values = torch.as_tensor(scores, dtype=torch.float64, device=self.sums.device)
        self.sums[stage - 1, task - 1] += values.sum()
        self.counts[stage - 1, task - 1] += values.numel()

    @property
    def matrix(self) -> Tensor:
        """(T, N) scores in percent, float64, NaN where nothing was added."""
        return 100.0 * self.sums / self.counts

    def compute(self) -> Tensor:
        """Return the metric after the latest stage that has scores.

        Raises:
            MissingScore: a score that the metric needs was never added; names stage and task.
        """
        stages = self.counts.sum(dim=1).nonzero()
        value = self._value(self.matrix, int(stages.max()) + 1) if len(stages) else math.nan
        return torch.tensor(value, dtype=torch.float64, device=self.sums.device)

    def _value(self, matrix: Tensor, stage: int) -> float:
        return self.formula(matrix, stage=stage, keep=self.keep)


class AP(ContinualMetric):
    """SMoLoRA's average performance."""

    formula = staticmethod(continual.average_performance)


class MAP(ContinualMetric):
    """SMoLoRA's mean average performance."""

    formula = staticmethod(continual.mean_average_performance)


class BWT(ContinualMetric):
    """SMoLoRA's backward transfer, over k - 1 tasks."""

    formula = staticmethod(continual.backward_transfer)


class MIF(ContinualMetric):
    """SMoLoRA's instruction following; its scores say whether each answer keeps to the asked format."""

    formula = staticmethod(continual.instruction_following)


class HiDeAvg(ContinualMetric):
    """HiDe-LLaVA's Avg: each task's mean over the stages since it was learned, then over tasks."""

    formula = staticmethod(continual.hide_average)


class HiDeLast(ContinualMetric):
    """HiDe-LLaVA's Last."""

    formula = staticmethod(continual.hide_last)


class ProgLoRAACC(ContinualMetric):
    """ProgLoRA's ACC."""

    formula = staticmethod(continual.proglora_acc)


class ProgLoRAMAA(ContinualMetric):
    """ProgLoRA's MAA."""

    formula = staticmethod(continual.proglora_maa)


class ProgLoRABWT(ContinualMetric):
    """ProgLoRA's BWT, over all N tasks."""

    formula = staticmethod(continual.proglora_bwt)


class ProgLoRAFWT(ContinualMetric):
    """ProgLoRA's FWT, the gain over training each task alone.

    Args:
        num_tasks: Columns of the matrix.
        isolated: Score in percent of the same method trained on each task alone.
        **kwargs: As for `ContinualMetric`.
    """

    def __init__(self, num_tasks: int, *, isolated: Sequence[float], **kwargs: Any) -> None:
        super().__init__(num_tasks, **kwargs)
        self.isolated = list(isolated)

    def _value(self, matrix: Tensor, stage: int) -> float:
        return continual.proglora_fwt(matrix, isolated=self.isolated, stage=stage, keep=self.keep)


class LCIAAvgACC(ContinualMetric):
    """LCIA's Avg.ACC."""

    formula = staticmethod(continual.lcia_avg_acc)


class LCIAForgetting(ContinualMetric):
    """LCIA's Forgetting; positive is worse."""

    higher_is_better = False
    formula = staticmethod(continual.lcia_forgetting)


class LCIANewACC(ContinualMetric):
    """LCIA's New.ACC."""

    formula = staticmethod(continual.lcia_new_acc)


class InstrDialogAR(ContinualMetric):
    """InstrDialog's AR."""

    formula = staticmethod(continual.instrdialog_ar)


class InstrDialogFWT(ContinualMetric):
    """InstrDialog's FWT: the next task before it is learned, over T - 1 tasks."""

    formula = staticmethod(continual.instrdialog_fwt)


class InstrDialogBWT(ContinualMetric):
    """InstrDialog's BWT, over T - 1 tasks."""

    formula = staticmethod(continual.instrdialog_bwt)
