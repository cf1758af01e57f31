"""Compare runs: groups over seeds, and the differences of each to the first, with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lit_cvit.metrics.continual import WITHOUT_CAPTIONS
from lit_cvit.report.bootstrap import difference_interval
from lit_cvit.report.compare_inputs import Compared, Group, groups_of, read_compared
from lit_cvit.report.compare_refusals import (
    Predictions,
    final_answers,
    require_comparable,
    require_finished,
    require_same_samples,
    require_same_test,
)
from lit_cvit.report.isolated import FWT, isolated_runs, isolated_scores
from lit_cvit.report.summary import headline, run_summary
from lit_cvit.utils.wording import counted, listed

AP, MIF = "AP", "MIF"
DIFFERENCES = (AP, AP + WITHOUT_CAPTIONS, MIF)
"""Metrics whose difference to the first group is given; each is a mean over tasks after the last stage."""

Answered = Mapping[str, Predictions]
"""Predictions after the last stage by `Compared.source`."""


@dataclass(frozen=True)
class Difference:
    """A metric of a group less that of the first, in points.

    Attributes:
        value: The difference of the means over seeds.
        low: Lower bound of its 95 % interval; None where there is nothing to draw.
        high: The upper bound.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """What was measured of a group.

    Attributes:
        group: The group.
        metrics: AP, MAP, BWT and MIF of every run, as `headline` names them; those that each run has.
        scores: Score of every run after its last stage, by task.
        differences: By metric; empty for the first group.
        over: What was drawn for the intervals, in words; empty for the first group.
    """

    group: Group
    metrics: Mapping[str, list[float]]
    scores: Mapping[str, list[float]]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    over: str = ""


@dataclass(frozen=True)
class Comparison:
    """Groups that may stand in one table, the one they are held against first."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Compared:
        """The first run of the first group, whose tasks and benchmark are those of all."""
        return self.rows[0].group.runs[0]


def compare(paths: Sequence[Path], isolated: Sequence[Path] = ()) -> Comparison:
    """Compare runs that were asked and scored alike.

    Args:
        paths: Run folders, results of a sweep, or folders of them; groups keep this order.
        isolated: Runs of single tasks alone, of which those that belong to a run give its forward transfer.

    Raises:
        ValueError: a path cannot be read, a run cannot be compared with one before it, or an isolated run
            belongs to none of the runs; says why.
    """
    runs = read_compared(paths)
    for run in runs:
        require_finished(run)
    # What one record does not hold, that of another may.
    for number, run in enumerate(runs):
        for earlier in runs[:number]:
            require_comparable(run, earlier)
    groups = groups_of(runs)
    answered = {run.source: final_answers(run) for run in runs}
    require_same_samples(runs, answered)
    alone = _isolated(runs, isolated)
    first, *others = (_row(group, runs[0].matrix.tasks, alone) for group in groups)
    return Comparison((first, *(_held_against(first, row, answered) for row in others)))


def _isolated(runs: Sequence[Compared], paths: Sequence[Path]) -> dict[str, list[float]]:
    """Scores of isolated runs, by the source of the run that they belong to."""
    alone, scores, used = read_compared(paths), {}, set()
    for each in alone:
        require_finished(each)
    for run in runs:
        found = isolated_runs(run, alone)
        for each in found.values():
            require_same_test(each, run)
        if found:
            scores[run.source] = isolated_scores(run, found)
            used |= {each.source for each in found.values()}
    unused = [each.source for each in alone if each.source not in used]
    if unused:
        raise ValueError(
            f"--isolated: {listed(unused)} belongs to none of the runs: it has to be of one of their tasks "
            "alone, with the seed and the configuration of one of them"
        )
    return scores


def _row(group: Group, tasks: Sequence[str], isolated: Mapping[str, Sequence[float]]) -> Row:
    wholes = [run_summary(run.matrix, isolated=isolated.get(run.source)) for run in group.runs]
    summaries = [{name: each[name] for name in (*headline(each), FWT) if name in each} for each in wholes]
    metrics = {name: [each.get(name, math.nan) for each in summaries] for name in summaries[0]}
    metrics = {name: values for name, values in metrics.items() if all(map(math.isfinite, values))}
    return Row(group, metrics, {task: [_final(run, task) for run in group.runs] for task in tasks})


def _held_against(first: Row, row: Row, answered: Answered) -> Row:
    """A row with its differences to the first."""
    pair = _Pair(row.group, first.group, answered)
    differences = {}
    for name in DIFFERENCES:
        if name in row.metrics and name in first.metrics:
            value = statistics.fmean(row.metrics[name]) - statistics.fmean(first.metrics[name])
            differences[name] = Difference(value, *pair.interval(name))
    return replace(row, differences=differences, over=pair.over())


class _Pair:
    """A group beside the first one: which scores can be drawn, and the intervals."""

    def __init__(self, group: Group, first: Group, answered: Answered) -> None:
        self.group, self.first, self.answered = group, first, answered
        matrix = first.runs[0].matrix
        self.tasks, self.captions = matrix.tasks, matrix.captions
        self.paired = group.seeds == first.seeds
        self.seeds_drawn = max(len(group.runs), len(first.runs)) > 1

    def interval(self, metric: str) -> tuple[float, float] | tuple[None, None]:
        """The interval of a metric's difference; None where there is nothing to draw."""
        tasks = [task for task in self.tasks if metric != AP + WITHOUT_CAPTIONS or task not in self.captions]
        drawn = [task for task in tasks if self._drawn(task, metric)]
        if not drawn and not self.seeds_drawn:
            return None, None
        sides = [
            [self._scores(side, task, metric, by_sample=task in drawn) for task in tasks]
            for side in (self.group, self.first)
        ]
        return difference_interval(sides[0], sides[1], paired_seeds=self.paired)

    def over(self) -> str:
        """What is drawn for the interval of AP."""
        drawn = [task for task in self.tasks if self._drawn(task, AP)]
        number = sum(len(self._answers(self.first.runs[0])[task].ids) for task in drawn)
        some = f" (of {len(drawn)} of {len(self.tasks)} tasks)" if len(drawn) < len(self.tasks) else ""
        samples = f"{counted(number, 'test sample')}{some}"
        ours, theirs = len(self.group.runs), len(self.first.runs)
        seeds = counted(ours, "seed") if self.paired else f"{theirs} and {ours} seeds, drawn apart,"
        if not self.seeds_drawn:
            return f"{samples} alone: one seed" if drawn else "none: one seed, and no predictions"
        return f"{seeds} and {samples}" if drawn else f"{seeds.rstrip(',')} alone: no predictions"

    def _answers(self, run: Compared) -> Predictions:
        return self.answered[run.source]

    def _drawn(self, task: str, metric: str) -> bool:
        """Whether a task's samples can be drawn: every run has them, and their mean is the task's score."""
        runs = (*self.group.runs, *self.first.runs)
        if any(task not in self._answers(run) for run in runs):
            return False
        means = [100 * statistics.fmean(self._answers(run)[task].scores) for run in runs]
        return metric == MIF or all(
            math.isclose(mean, _final(run, task), abs_tol=1e-6) for run, mean in zip(runs, means, strict=True)
        )

    def _scores(self, side: Group, task: str, metric: str, *, by_sample: bool) -> Tensor:
        """(seeds, samples) percent of a task; one column where its samples are not drawn."""
        if not by_sample:
            whole = [_final_mif(run, task) if metric == MIF else _final(run, task) for run in side.runs]
            return torch.tensor(whole, dtype=torch.float64)[:, None]
        answers = [self._answers(run)[task] for run in side.runs]
        rows = [each.in_form if metric == MIF else each.scores for each in answers]
        return 100 * torch.tensor(rows, dtype=torch.float64)


def _final(run: Compared, task: str) -> float:
    score = run.matrix.scores[-1][run.matrix.tasks.index(task)]
    assert score is not None, "a finished run has all final scores"
    return score


def _final_mif(run: Compared, task: str) -> float:
    mif = run.matrix.mif[-1][run.matrix.tasks.index(task)]
    assert mif is not None, "a run whose MIF is defined has that of every task"
    return mif
