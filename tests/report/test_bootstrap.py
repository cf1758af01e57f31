"""The paired bootstrap: what both sides share cancels, what is drawn alone spreads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_cvit.report.bootstrap import difference_interval


def scores(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_noise_that_both_sides_share_in_a_sample_cancels() -> None:
    shared = torch.rand(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 100
    low, high = difference_interval([shared + 5], [shared], paired_seeds=True)
    assert (low, high) == (pytest.approx(5), pytest.approx(5))


def test_noise_that_both_sides_share_in_a_seed_cancels_only_where_seeds_are_paired() -> None:
    theirs = scores([0.0] * 4, [100.0] * 4)
    paired = difference_interval([theirs + 5], [theirs], paired_seeds=True)
    assert paired == (pytest.approx(5), pytest.approx(5))
    # Drawn apart, both may be of one seed each: 100 points in either direction.
    apart = difference_interval([theirs + 5], [theirs], paired_seeds=False)
    assert apart == (pytest.approx(-95), pytest.approx(105))


def test_two_seeds_give_the_interval_from_one_difference_to_the_other() -> None:
    # Drawn twice with return, each of the two is all there is in a quarter of the resamples.
    found = difference_interval([scores([10.0], [30.0])], [scores([0.0], [0.0])], paired_seeds=True)
    assert found == (pytest.approx(10), pytest.approx(30))


def test_the_interval_over_samples_is_that_of_the_binomial_distribution() -> None:
    ours = scores([100.0] * 50 + [0.0] * 50)
    low, high = difference_interval([ours], [scores([0.0] * 100)], paired_seeds=True)
    # 50 of 100 with a standard error of 5.
    assert low == pytest.approx(50 - 1.96 * 5, abs=1.0)
    assert high == pytest.approx(50 + 1.96 * 5, abs=1.0)


def test_tasks_weigh_the_same_whatever_their_number_of_samples() -> None:
    ours = [scores([100.0]), scores([0.0] * 9)]
    theirs = [scores([0.0]), scores([0.0] * 9)]
    assert difference_interval(ours, theirs, paired_seeds=True) == (pytest.approx(50), pytest.approx(50))


def test_a_score_of_the_whole_split_is_not_drawn_but_its_seeds_are() -> None:
    ours, theirs = [scores([10.0], [20.0])], [scores([0.0], [0.0])]
    assert difference_interval(ours, theirs, paired_seeds=True) == (pytest.approx(10), pytest.approx(20))
    once = difference_interval([scores([10.0])], [scores([4.0])], paired_seeds=True)
    assert once == (pytest.approx(6), pytest.approx(6))


def test_a_split_larger_than_what_is_drawn_at_once_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = scores([100.0] * 30 + [0.0] * 70), scores([0.0] * 100)
    whole = difference_interval([ours], [theirs], paired_seeds=True)
    monkeypatch.setattr("lit_cvit.report.bootstrap._DRAWN_AT_ONCE", 300)
    in_parts = difference_interval([ours], [theirs], paired_seeds=True)
    assert in_parts == pytest.approx(whole, abs=1.5)


def test_the_interval_is_the_same_with_every_call() -> None:
    ours, theirs = scores([1.0, 5.0, 9.0], [2.0, 2.0, 8.0]), scores([0.0, 4.0, 1.0], [3.0, 3.0, 3.0])
    first, second = (difference_interval([ours], [theirs], paired_seeds=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], []),
        ([scores([1.0, 2.0])], [scores([1.0])]),
        ([scores([1.0])], [scores([1.0]), scores([1.0])]),
        ([scores([1.0], [2.0])], [scores([1.0])]),
    ],
)
def test_sides_of_other_shapes_are_refused(ours: list[Tensor], theirs: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        difference_interval(ours, theirs, paired_seeds=True)
