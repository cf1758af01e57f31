"""The torchmetrics classes: per-sample scores in, the value of the formula out, sums over ranks."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from matrix_kit import matrix

from lit_cvit.metrics import accumulators
from lit_cvit.metrics.accumulators import (
    AP,
    BWT,
    MAP,
    MIF,
    ContinualMetric,
    HiDeAvg,
    InstrDialogFWT,
    LCIAForgetting,
    LCIANewACC,
    ProgLoRABWT,
    ProgLoRAFWT,
)
from lit_cvit.metrics.continual import MissingScore

# Per-sample scores of three samples per cell: 100 * mean is a row of the matrix below.
CELLS = {
    (1, 1): [1.0, 1.0, 0.1],
    (1, 2): [0.3, 0.0, 0.0],
    (2, 1): [0.5, 0.4, 0.3],
    (2, 2): [1.0, 0.5, 0.6],
}
MATRIX = matrix([[70, 10], [40, 70]])
EXPECTED = {
    AP: 55.0,
    MAP: (70 + 55) / 2,
    BWT: -30.0,
    MIF: 55.0,
    HiDeAvg: (55 + 70) / 2,
    ProgLoRABWT: -15.0,
    LCIAForgetting: 30.0,
    LCIANewACC: 70.0,
    InstrDialogFWT: 10.0,
}


def _fed(metric: ContinualMetric) -> ContinualMetric:
    for (stage, task), scores in CELLS.items():
        metric.update(stage, task, scores)
    return metric


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_class_computes_its_formula_in_percent(kind: type[ContinualMetric]) -> None:
    value = _fed(kind(2)).compute()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(EXPECTED[kind], abs=1e-9)


def test_every_class_has_a_formula_that_works() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(accumulators, inspect.isclass)
        if kind.__module__ == accumulators.__name__
    ]
    kinds.remove(ContinualMetric)
    assert len(kinds) == 16
    for kind in kinds:
        metric = kind(2, isolated=[60.0, 60.0]) if kind is ProgLoRAFWT else kind(2)
        assert torch.isfinite(_fed(metric).compute()), kind


def test_proglora_fwt_takes_isolated_scores() -> None:
    assert _fed(ProgLoRAFWT(2, isolated=[60.0, 65.0])).compute().item() == pytest.approx((10 + 5) / 2)


def test_matrix_is_in_percent_and_nan_where_nothing_was_added() -> None:
    metric = AP(3, num_stages=2)
    for (stage, task), scores in CELLS.items():
        metric.update(stage, task, torch.tensor(scores))
    expected = torch.cat([MATRIX, torch.full((2, 1), float("nan"), dtype=torch.float64)], dim=1)
    torch.testing.assert_close(metric.matrix, expected, equal_nan=True, atol=1e-5, rtol=0)


def test_scores_may_come_in_pieces() -> None:
    whole, pieces = AP(1), AP(1)
    whole.update(1, 1, [0.25, 0.5, 1.0])
    pieces.update(1, 1, [0.25])
    pieces.update(1, 1, [0.5, 1.0])
    assert pieces.compute() == whole.compute()


def test_two_ranks_of_unequal_size_sum_to_one_process() -> None:
    ranks = [BWT(2), BWT(2)]
    for (stage, task), scores in CELLS.items():
        ranks[0].update(stage, task, scores[:1])
        ranks[1].update(stage, task, scores[1:])
    merged = copy.deepcopy(ranks[0])
    merged.merge_state(ranks[1])
    assert merged.compute().item() == pytest.approx(EXPECTED[BWT], abs=1e-9)
    assert merged.counts.tolist() == [[3, 3], [3, 3]]


def test_states_reduce_by_sum_across_ranks() -> None:
    metric = AP(2)
    assert set(metric._reductions) == {"sums", "counts"}
    stacked = torch.stack([torch.ones(2, 2), 2 * torch.ones(2, 2)])
    for reduction in metric._reductions.values():
        assert callable(reduction)
        assert reduction(stacked).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_compute_reads_the_latest_stage_that_has_scores() -> None:
    metric = AP(3)
    metric.update(1, 1, [1.0, 0.0])
    assert metric.compute().item() == 50.0
    metric.update(2, 1, [0.0])
    metric.update(2, 2, [0.5])
    assert metric.compute().item() == 25.0


def test_missing_cell_of_the_latest_stage_is_an_error() -> None:
    metric = AP(3)
    metric.update(2, 2, [1.0])
    with pytest.raises(MissingScore, match="task 1 after stage 2"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_metric_without_scores_is_nan() -> None:
    assert torch.isnan(AP(2).compute())


def test_reset_forgets_the_scores() -> None:
    metric = _fed(AP(2))
    metric.reset()
    assert metric.counts.sum() == 0
    assert metric.sums.sum() == 0


def test_kept_tasks_alone_count() -> None:
    assert _fed(AP(2, keep=[False, True])).compute().item() == pytest.approx(70.0)


def test_metric_survives_pickling() -> None:
    metric = pickle.loads(pickle.dumps(_fed(MAP(2))))
    assert metric.compute().item() == pytest.approx(EXPECTED[MAP])


@pytest.mark.parametrize(
    ("stage", "task", "name"), [(0, 1, "stage 0"), (3, 1, "stage 3"), (1, 4, "task 4"), (1, 0, "task 0")]
)
def test_cell_outside_the_matrix_is_refused(stage: int, task: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is outside the score matrix"):
        AP(3, num_stages=2).update(stage, task, [1.0])


@pytest.mark.parametrize(("num_tasks", "num_stages"), [(0, None), (2, 3), (2, 0)])
def test_impossible_shape_is_refused(num_tasks: int, num_stages: int | None) -> None:
    with pytest.raises(ValueError, match=f"for {num_tasks} tasks; allowed are 1 to {num_tasks}"):
        AP(num_tasks, num_stages=num_stages)


def test_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="keep has 1 entries for 2 tasks"):
        AP(2, keep=[True])


def test_only_forgetting_is_better_when_lower() -> None:
    assert LCIAForgetting.higher_is_better is False
    assert AP.higher_is_better is True
