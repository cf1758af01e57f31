"""Summary metrics of a run's score matrix, which may be unfinished or come from joint training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from lit_cvit.metrics.continual import WITHOUT_CAPTIONS, MissingScore, instruction_following
from lit_cvit.metrics.continual_metric import ContinualMetric, continual_metrics
from lit_cvit.report.tables import mean_of
from lit_cvit.run import Cells, ScoreMatrix

HEADLINE = ("AP", "MAP", "BWT", "MIF")


def run_summary(matrix: ScoreMatrix, *, isolated: Sequence[float] | None = None) -> dict[str, float]:
    """Every continual-learning metric that the matrix allows, read after its last measured stage.

    A metric is left out if one of its scores was not measured (InstrDialog's FWT needs each task before it is
    learned). Joint training (a stage whose name is no task) has no stages, so it has AP and MIF alone, over
    all tasks.

    Args:
        matrix: The matrix of a run.
        isolated: Scores of the same method trained on each task alone, in the order of `matrix.tasks`.

    Returns:
        Metrics by their names in tables, NaN where one is not defined (BWT after one stage); those that leave
        captions out end in " without captions".

    Raises:
        ValueError: nothing was measured, or a task was learned twice.
    """
    measured = [k for k, row in enumerate(matrix.scores, 1) if any(cell is not None for cell in row)]
    if not measured:
        raise ValueError("the score matrix has no evaluated stage, so there is nothing to sum up")
    learned = matrix.stages[: measured[-1]]
    if any(task not in matrix.tasks for task in learned):
        return _joint_summary(matrix, measured[-1] - 1)
    if len(set(learned)) != len(learned):
        raise ValueError(f"a task was learned twice ({', '.join(learned)}): the metrics are not defined")
    order = [matrix.tasks.index(task) for task in learned]
    order += [column for column in range(len(matrix.tasks)) if column not in order]
    # Every rank has the whole matrix, and rank 0 may be alone in asking.
    metrics = continual_metrics(
        len(order),
        num_stages=len(learned),
        captions=[matrix.tasks[column] in matrix.captions for column in order],
        isolated=None if isolated is None else [isolated[column] for column in order],
        sync_on_compute=False,
    )
    values = {}
    for name, metric in metrics.items():
        with contextlib.suppress(MissingScore):
            values[name] = _value(metric, matrix.scores, order)
    if any(cell is not None for cell in matrix.mif[len(learned) - 1]):
        with contextlib.suppress(MissingScore):
            mif = ContinualMetric(
                instruction_following, len(order), num_stages=len(learned), sync_on_compute=False
            )
            values["MIF"] = _value(mif, matrix.mif, order)
    return values


def headline(summary: Mapping[str, float]) -> dict[str, float]:
    """The metrics to watch while a run goes on, which are SMoLoRA's, with and without captions."""
    return {k: value for k, value in summary.items() if k.removesuffix(WITHOUT_CAPTIONS) in HEADLINE}


def _value(metric: ContinualMetric, cells: Cells, order: Sequence[int]) -> float:
    for stage, row in enumerate(cells, start=1):
        for task, column in enumerate(order, start=1):
            score = row[column]
            if score is not None:
                metric.update(stage, task, score)
    return float(metric.compute())


def _joint_summary(matrix: ScoreMatrix, row: int) -> dict[str, float]:
    others = [task for task in matrix.tasks if task not in matrix.captions]
    scores, mif = matrix.scores[row], matrix.mif[row]
    values = {
        "AP": mean_of(matrix.tasks, scores, over=matrix.tasks),
        "MIF": mean_of(matrix.tasks, mif, over=matrix.tasks),
    }
    if 0 < len(others) < len(matrix.tasks):
        values["AP" + WITHOUT_CAPTIONS] = mean_of(matrix.tasks, scores, over=others)
    return {name: value for name, value in values.items() if value is not None}
