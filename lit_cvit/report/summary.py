"""Summary metrics of a run's score matrix, which may be unfinished or come from joint training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lit_cvit.metrics.continual import WITHOUT_CAPTIONS, summary
from lit_cvit.report.tables import mean_of
from lit_cvit.run import Cells, ScoreMatrix


def run_summary(matrix: ScoreMatrix, *, isolated: Sequence[float] | None = None) -> dict[str, float]:
    """Every continual-learning metric that the matrix allows, read after its last measured stage.

    Joint training (a stage whose name is no task) has no stages, so it has AP and MIF over all tasks alone.

    Args:
        matrix: The matrix of a run.
        isolated: Scores of the same method trained on each task alone, in the order of `matrix.tasks`.

    Returns:
        Metrics by their names in tables; those that leave captions out end in " without captions".

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
    return summary(
        _tensor(matrix.scores, order),
        mif=_tensor(matrix.mif, order),
        captions=[matrix.tasks[column] in matrix.captions for column in order],
        isolated=None if isolated is None else [isolated[column] for column in order],
        stage=measured[-1],
    )


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


def _tensor(cells: Cells, order: list[int]) -> torch.Tensor:
    rows = [[math.nan if row[column] is None else row[column] for column in order] for row in cells]
    return torch.tensor(rows, dtype=torch.float64)
