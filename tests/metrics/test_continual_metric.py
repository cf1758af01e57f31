"""The metrics as torchmetrics: percentages in, the value of the formula out, one matrix out of all ranks'."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from lit_cvit.metrics import continual
from lit_cvit.metrics.continual import FORMULAS, Formula, MissingScore
from lit_cvit.metrics.continual_metric import ContinualMetric, continual_metrics

CELLS = {(1, 1): 70.0, (1, 2): 10.0, (2, 1): 40.0, (2, 2): 70.0}
EXPECTED: dict[Formula, float] = {
    continual.average_performance: 55.0,
    continual.mean_average_performance: (70 + 55) / 2,
    continual.backward_transfer: -30.0,
    continual.instruction_following: 55.0,
    continual.hide_average: (55 + 70) / 2,
    continual.proglora_bwt: -15.0,
    continual.lcia_forgetting: 30.0,
    continual.lcia_new_acc: 70.0,
    continual.instrdialog_fwt: 10.0,
}
AP, BWT = continual.average_performance, continual.backward_transfer


def fed(metric: ContinualMetric) -> ContinualMetric:
    for (stage, task), percent in CELLS.items():
        metric.update(stage, task, percent)
    return metric


@pytest.mark.parametrize("formula", EXPECTED, ids=lambda formula: formula.__name__)
def test_a_metric_computes_its_formula(formula: Formula) -> None:
    value = fed(ContinualMetric(formula, 2)).compute()
    assert (value.dtype, value.item()) == (torch.float64, EXPECTED[formula])


def test_every_formula_of_the_tables_has_its_metric() -> None:
    values = {name: fed(metric).compute().item() for name, metric in continual_metrics(2).items()}
    assert values == {name: formula(fed(ContinualMetric(AP, 2)).scores) for name, formula in FORMULAS.items()}


def test_isolated_scores_give_forward_transfer() -> None:
    metric = continual_metrics(2, isolated=[60.0, 65.0])["ProgLoRA FWT"]
    assert fed(metric).compute().item() == (10 + 5) / 2


@pytest.mark.parametrize(
    ("captions", "value"), [([True, False], 70.0), ([False, True], 40.0)], ids=["first", "second"]
)
def test_where_tasks_are_mixed_each_metric_also_leaves_captions_out(
    captions: list[bool], value: float
) -> None:
    metrics = continual_metrics(2, captions=captions)
    assert set(metrics) == {*FORMULAS, *(f"{name} without captions" for name in FORMULAS)}
    assert fed(metrics["AP without captions"]).compute().item() == value


@pytest.mark.parametrize("captions", [[False] * 3, [True] * 3, [False, False, True]])
def test_there_are_no_caption_variants_unless_learned_tasks_are_mixed(captions: list[bool]) -> None:
    assert set(continual_metrics(3, num_stages=2, captions=captions)) == set(FORMULAS)


def test_a_cell_holds_the_latest_score() -> None:
    metric = fed(ContinualMetric(AP, 2))
    metric.update(2, 1, 50.0)
    assert metric.compute().item() == 60.0


def test_compute_reads_the_latest_stage_that_has_scores() -> None:
    metric = ContinualMetric(AP, 3)
    metric.update(1, 1, 50.0)
    assert metric.compute().item() == 50.0
    metric.update(2, 1, 0.0)
    metric.update(2, 2, 50.0)
    assert metric.compute().item() == 25.0


def test_tasks_that_are_never_learned_have_columns_past_the_stages() -> None:
    metric = fed(ContinualMetric(AP, 3, num_stages=2))
    assert metric.scores.shape == (2, 3)
    assert metric.compute().item() == 55.0


def test_a_missing_cell_of_the_latest_stage_is_an_error() -> None:
    metric = ContinualMetric(AP, 3)
    metric.update(2, 2, 100.0)
    with pytest.raises(MissingScore, match="task 1 after stage 2"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_a_metric_without_scores_is_nan() -> None:
    assert math.isnan(ContinualMetric(AP, 2).compute())


def test_reset_removes_the_scores() -> None:
    metric = fed(ContinualMetric(AP, 2))
    metric.reset()
    assert metric.scores.isnan().all()


@pytest.mark.parametrize("shared", [[], [(1, 1)], list(CELLS)], ids=["none", "one", "all"])
def test_ranks_with_parts_of_the_scores_join_to_one_matrix(shared: list[tuple[int, int]]) -> None:
    ranks = [ContinualMetric(BWT, 2), ContinualMetric(BWT, 2)]
    for number, (cell, percent) in enumerate(CELLS.items()):
        for rank, metric in enumerate(ranks):
            if number % 2 == rank or cell in shared:
                metric.update(*cell, percent)
    joined = copy.deepcopy(ranks[0])
    joined.merge_state(ranks[1])
    assert joined.scores.tolist() == [[70.0, 10.0], [40.0, 70.0]]
    assert joined.compute().item() == -30.0


def test_what_no_rank_measured_stays_missing() -> None:
    one, other = ContinualMetric(AP, 2), ContinualMetric(AP, 2)
    one.update(1, 1, 0.0)
    other.update(1, 1, 0.0)
    one.merge_state(other)
    assert one.scores[0, 0] == 0.0
    assert one.scores.isnan().tolist() == [[False, True], [True, True]]


def test_ranks_that_disagree_are_refused() -> None:
    one, other = fed(ContinualMetric(AP, 2)), fed(ContinualMetric(AP, 2))
    other.update(2, 1, 41.0)
    with pytest.raises(ValueError, match="different scores of task 1 after stage 2"):
        one.merge_state(other)


def test_kept_tasks_alone_count() -> None:
    assert fed(ContinualMetric(AP, 2, keep=[False, True])).compute().item() == 70.0


def test_a_metric_survives_pickling() -> None:
    metric = pickle.loads(pickle.dumps(fed(ContinualMetric(AP, 2))))
    assert metric.compute().item() == 55.0


@pytest.mark.parametrize(
    ("stage", "task", "name"), [(0, 1, "stage 0"), (3, 1, "stage 3"), (1, 4, "task 4"), (1, 0, "task 0")]
)
def test_a_cell_outside_the_matrix_is_refused(stage: int, task: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is outside the score matrix"):
        ContinualMetric(AP, 3, num_stages=2).update(stage, task, 1.0)


@pytest.mark.parametrize(("num_tasks", "num_stages"), [(0, None), (2, 3), (2, 0)])
def test_an_impossible_shape_is_refused(num_tasks: int, num_stages: int | None) -> None:
    with pytest.raises(ValueError, match=f"for {num_tasks} tasks; allowed are 1 to {num_tasks}"):
        ContinualMetric(AP, num_tasks, num_stages=num_stages)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="keep has 1 entries for 2 tasks"):
        ContinualMetric(AP, 2, keep=[True])
