"""Continual-learning metrics as pure functions of the score matrix, each with its published denominator.

The matrix `a` has one row per stage and one column per task; `a[k][j]` is the score on task j after stage k,
NaN where it was not evaluated. Task j is the one learned in stage j; columns past the last stage (tasks that
are never learned) are not read. Stages and tasks count from 1 here, as in the papers.

Every function takes `stage`, the k after which the metric is read (default: the last row), and `keep`, a
mask of the columns that count (default: all): sums then run over kept tasks alone, and denominators count the
terms of the sum. A mean of nothing, such as BWT after stage 1, is NaN. A score that is needed but missing
raises `MissingScore`.

Sources: SMoLoRA (arXiv 2411.13949, Eq. 10-11), HiDe-LLaVA (arXiv 2503.12941, Sec. 5.1), ProgLoRA (ACL
Findings 2025, pp. 2779-2796), LCIA (arXiv 2410.10868), InstrDialog as in CITB (arXiv 2310.14510).
AP = ACC = Avg.ACC = AR = the mean of HiDe's Last, and MAP = MAA; they are kept apart so that a table can use
the name of its paper. The three BWT are two different numbers, and the two FWT have nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

Mask = Sequence[bool] | Tensor


class MissingScore(ValueError):
    """A metric needs a score that was not evaluated."""


class Formula(Protocol):
    """A metric of the score matrix."""

    def __call__(self, a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float: ...


def average_performance(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """AP_k = 1/k sum_{j<=k} a[k][j] (SMoLoRA, Eq. 10): the mean over learned tasks after stage k.

    Args:
        a: (T, N) scores.
        stage: The k; default T.
        keep: (N,) mask of the tasks that count; default all.

    Raises:
        ValueError: `a` is no matrix, `stage` has no row or no task, or `keep` does not fit.
        MissingScore: a needed score is NaN; names stage and task.
    """
    s = _Scores(a, stage, keep)
    return _mean(s[s.k, j] for j in s.tasks(s.k))


def mean_average_performance(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """MAP_k = 1/k sum_{i<=k} AP_i (SMoLoRA, Eq. 10). With `keep`, stages without a kept task do not count.

    Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(_mean(s[i, j] for j in s.tasks(i)) for i in range(1, s.k + 1) if s.tasks(i))


def backward_transfer(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """BWT_k = 1/(k-1) sum_{j<k} (a[k][j] - a[j][j]) (SMoLoRA, Eq. 11); NaN after stage 1.

    Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(s[s.k, j] - s[j, j] for j in s.tasks(s.k - 1))


def instruction_following(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """MIF_k = 1/k sum_{j<=k} f[k][j], f = percentage of answers in the asked format (SMoLoRA, Sec. 4).

    The matrix holds those percentages in place of scores. Arguments and errors as in `average_performance`.
    """
    return average_performance(a, stage=stage, keep=keep)


def hide_average(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """Avg = 1/k sum_{j<=k} (1/(k-j+1) sum_{j<=i<=k} a[i][j]) (HiDe-LLaVA): per task, then over tasks.

    The paper gives words, not a formula; this reading reproduces that Avg equals Last for the final task. It
    is not MAP. Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(_mean(s[i, j] for i in range(j, s.k + 1)) for j in s.tasks(s.k))


def hide_last(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """Last = 1/k sum_{j<=k} a[k][j] (HiDe-LLaVA). Arguments and errors as in `average_performance`."""
    return average_performance(a, stage=stage, keep=keep)


def proglora_acc(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """ACC = 1/N sum_{j<=N} P[N][j] (ProgLoRA). Arguments and errors as in `average_performance`."""
    return average_performance(a, stage=stage, keep=keep)


def proglora_maa(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """MAA = 1/N sum_{i<=N} (1/i sum_{j<=i} P[i][j]) (ProgLoRA). Arguments as in `average_performance`."""
    return mean_average_performance(a, stage=stage, keep=keep)


def proglora_bwt(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """BWT = 1/N sum_{j<=N} (P[N][j] - P[j][j]) (ProgLoRA): over all N tasks, the last one adds 0.

    It is (N-1)/N of SMoLoRA's, and 0 after stage 1. Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(s[s.k, j] - s[j, j] for j in s.tasks(s.k))


def proglora_fwt(
    a: Tensor, *, isolated: Sequence[float] | Tensor, stage: int | None = None, keep: Mask | None = None
) -> float:
    """FWT = 1/N sum_{j<=N} (P[j][j] - P0[j]) (ProgLoRA): the gain over training each task on its own.

    Args:
        a: (T, N) scores.
        isolated: P0, the scores of the same method trained on each task alone, in the order of the columns.
        stage: The k; default T.
        keep: (N,) mask of the tasks that count; default all.

    Raises:
        ValueError: as in `average_performance`, or `isolated` has fewer entries than learned tasks.
        MissingScore: a needed score, or an isolated one, is NaN.
    """
    s = _Scores(a, stage, keep)
    alone = [float(score) for score in isolated]
    if len(alone) < s.k:
        raise ValueError(f"isolated: got {len(alone)} scores, need one for each of the {s.k} learned tasks")
    missing = [j for j in s.tasks(s.k) if math.isnan(alone[j - 1])]
    if missing:
        raise MissingScore(f"isolated: the score of task {missing[0]} is missing")
    return _mean(s[j, j] - alone[j - 1] for j in s.tasks(s.k))


def lcia_avg_acc(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """Avg.ACC = 1/T sum_{j<=T} A[T][j] (LCIA). Arguments and errors as in `average_performance`."""
    return average_performance(a, stage=stage, keep=keep)


def lcia_forgetting(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """Forgetting = 1/(T-1) sum_{j<T} (max_{j<=i<=T-1} A[i][j] - A[T][j]) (LCIA); positive is worse.

    NaN after stage 1. Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(max(s[i, j] for i in range(j, s.k)) - s[s.k, j] for j in s.tasks(s.k - 1))


def lcia_new_acc(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """New.ACC = 1/T sum_{j<=T} A[j][j] (LCIA): each task just after it was learned.

    Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(s[j, j] for j in s.tasks(s.k))


def instrdialog_ar(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """AR = 1/T sum_{j<=T} a[T][j] (InstrDialog, on ROUGE-L). Arguments as in `average_performance`."""
    return average_performance(a, stage=stage, keep=keep)


def instrdialog_fwt(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """FWT = 1/(T-1) sum_{2<=j<=T} a[j-1][j] (InstrDialog): the next task before it is learned.

    Needs scores above the diagonal; NaN after stage 1. Arguments and errors as in `average_performance`.
    """
    s = _Scores(a, stage, keep)
    return _mean(s[j - 1, j] for j in s.tasks(s.k) if j > 1)


def instrdialog_bwt(a: Tensor, *, stage: int | None = None, keep: Mask | None = None) -> float:
    """BWT = 1/(T-1) sum_{j<T} (a[T][j] - a[j][j]) (InstrDialog): SMoLoRA's formula.

    Arguments and errors as in `average_performance`.
    """
    return backward_transfer(a, stage=stage, keep=keep)


FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "AP": average_performance,
        "MAP": mean_average_performance,
        "BWT": backward_transfer,
        "HiDe Avg": hide_average,
        "HiDe Last": hide_last,
        "ProgLoRA ACC": proglora_acc,
        "ProgLoRA MAA": proglora_maa,
        "ProgLoRA BWT": proglora_bwt,
        "LCIA Avg.ACC": lcia_avg_acc,
        "LCIA Forgetting": lcia_forgetting,
        "LCIA New.ACC": lcia_new_acc,
        "InstrDialog AR": instrdialog_ar,
        "InstrDialog FWT": instrdialog_fwt,
        "InstrDialog BWT": instrdialog_bwt,
    }
)
"""Name in tables -> metric, for those that need the score matrix alone."""

WITHOUT_CAPTIONS = " without captions"
"""Ends the name of a metric over the tasks that are no captions."""


class _Scores:
    """The matrix with the papers' indices: `s[k, j]` is the score on task j after stage k, both from 1."""

    def __init__(self, a: Tensor, stage: int | None, keep: Mask | None) -> None:
        if a.ndim != 2:
            raise ValueError(f"the score matrix has shape {tuple(a.shape)}; it needs (stages, tasks)")
        num_stages, num_tasks = a.shape
        self.k = num_stages if stage is None else stage
        if not 1 <= self.k <= min(num_stages, num_tasks):
            raise ValueError(
                f"stage {self.k} is outside a matrix of {num_stages} stages and {num_tasks} tasks; "
                f"allowed are 1 to {min(num_stages, num_tasks)}"
            )
        self.keep = [True] * num_tasks if keep is None else [bool(each) for each in keep]
        if len(self.keep) != num_tasks:
            raise ValueError(f"the mask has {len(self.keep)} entries for {num_tasks} tasks")
        self._rows: list[list[float]] = a.tolist()

    def __getitem__(self, cell: tuple[int, int]) -> float:
        k, j = cell
        score = self._rows[k - 1][j - 1]
        if math.isnan(score):
            raise MissingScore(f"the score of task {j} after stage {k} is missing")
        return score

    def tasks(self, last: int) -> list[int]:
        """The tasks 1 to `last` that count."""
        return [j for j in range(1, last + 1) if self.keep[j - 1]]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
