"""Every continual-learning metric against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from matrix_kit import matrix

from lit_cvit.metrics import continual
from lit_cvit.metrics.continual import FORMULAS, MissingScore

# Three stages, four tasks; the fourth is never learned. Task 1 is best one stage after it was learned.
A = matrix([[80, 10, 20, None], [85, 60, 30, None], [50, 66, 91, None]])
ISOLATED = [70.0, 66.0, 94.0]

BY_HAND = {
    "AP": (50 + 66 + 91) / 3,
    "MAP": (80 + 72.5 + 69) / 3,
    "BWT": (-30 + 6) / 2,
    "HiDe Avg": ((80 + 85 + 50) / 3 + (60 + 66) / 2 + 91) / 3,
    "HiDe Last": 69,
    "ProgLoRA ACC": 69,
    "ProgLoRA MAA": (80 + 72.5 + 69) / 3,
    "ProgLoRA BWT": (-30 + 6 + 0) / 3,
    "LCIA Avg.ACC": 69,
    "LCIA Forgetting": ((85 - 50) + (60 - 66)) / 2,
    "LCIA New.ACC": (80 + 60 + 91) / 3,
    "InstrDialog AR": 69,
    "InstrDialog FWT": (10 + 30) / 2,
    "InstrDialog BWT": (-30 + 6) / 2,
}
AFTER_STAGE_2 = {
    "AP": (85 + 60) / 2,
    "MAP": (80 + 72.5) / 2,
    "BWT": 5,
    "HiDe Avg": ((80 + 85) / 2 + 60) / 2,
    "ProgLoRA BWT": 5 / 2,
    "LCIA Forgetting": 80 - 85,
    "LCIA New.ACC": 70,
    "InstrDialog FWT": 10,
}
WITHOUT_TASK_2 = {
    "AP": (50 + 91) / 2,
    "MAP": (80 + 85 + 70.5) / 3,
    "BWT": -30,
    "HiDe Avg": ((80 + 85 + 50) / 3 + 91) / 2,
    "ProgLoRA BWT": -30 / 2,
    "LCIA Forgetting": 85 - 50,
    "LCIA New.ACC": (80 + 91) / 2,
    "InstrDialog FWT": 30,
}


def test_every_formula_has_a_hand_computed_case() -> None:
    assert set(BY_HAND) == set(FORMULAS)


@pytest.mark.parametrize("name", BY_HAND)
def test_metric_after_the_last_stage(name: str) -> None:
    assert FORMULAS[name](A) == pytest.approx(BY_HAND[name], abs=1e-12)


@pytest.mark.parametrize("name", AFTER_STAGE_2)
def test_metric_after_an_earlier_stage(name: str) -> None:
    assert FORMULAS[name](A, stage=2) == pytest.approx(AFTER_STAGE_2[name], abs=1e-12)


@pytest.mark.parametrize("name", WITHOUT_TASK_2)
def test_denominators_count_the_kept_tasks(name: str) -> None:
    stored = FORMULAS[name](A, keep=[True, False, True, True])
    assert stored == pytest.approx(WITHOUT_TASK_2[name], abs=1e-12)


def test_map_skips_stages_that_have_no_kept_task() -> None:
    value = continual.mean_average_performance(A, keep=[False, True, True, True])
    assert value == pytest.approx((60 + (66 + 91) / 2) / 2, abs=1e-12)


def test_proglora_fwt_is_the_gain_over_isolated_training() -> None:
    value = continual.proglora_fwt(A, isolated=ISOLATED)
    assert value == pytest.approx((10 - 6 - 3) / 3, abs=1e-12)


def test_mif_averages_the_last_row_of_format_percentages() -> None:
    follows = matrix([[100, None], [90, 70]])
    assert continual.instruction_following(follows) == pytest.approx(80)


@pytest.mark.parametrize(
    "name",
    ["BWT", "LCIA Forgetting", "InstrDialog FWT", "InstrDialog BWT"],
    ids=lambda name: name.replace(" ", "_"),
)
def test_metrics_over_t_minus_1_are_nan_after_one_stage(name: str) -> None:
    assert math.isnan(FORMULAS[name](matrix([[42.0, 7.0]])))


def test_proglora_bwt_is_0_after_one_stage() -> None:
    assert continual.proglora_bwt(matrix([[42.0]])) == 0.0


def test_a_metric_of_no_kept_task_is_nan() -> None:
    assert math.isnan(continual.average_performance(A, keep=[False] * 4))


def test_missing_cell_is_named_by_stage_and_task() -> None:
    with pytest.raises(MissingScore, match="the score of task 1 after stage 2 is missing"):
        continual.mean_average_performance(matrix([[80, None], [None, 60]]))


def test_cells_that_a_metric_does_not_need_may_be_missing() -> None:
    only_last = matrix([[None, None], [70, 60]])
    assert continual.average_performance(only_last) == 65


def test_missing_isolated_score_is_named() -> None:
    with pytest.raises(MissingScore, match="isolated: the score of task 2 is missing"):
        continual.proglora_fwt(A, isolated=[70.0, math.nan, 94.0])


def test_too_few_isolated_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 scores, need one for each of the 3 learned tasks"):
        continual.proglora_fwt(A, isolated=[70.0, 66.0])


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_stage_outside_the_matrix_is_refused(stage: int) -> None:
    with pytest.raises(
        ValueError, match=f"stage {stage} is outside .* 3 stages and 4 tasks; allowed are 1 to 3"
    ):
        continual.average_performance(A, stage=stage)


def test_stage_without_its_own_task_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 3 is outside a matrix of 3 stages and 2 tasks"):
        continual.average_performance(A[:, :2])


def test_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask has 2 entries for 4 tasks"):
        continual.average_performance(A, keep=[True, False])


def test_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\); it needs \(stages, tasks\)"):
        continual.average_performance(torch.zeros(3))
