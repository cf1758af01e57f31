"""Which cells a call makes: shares of a cluster's jobs, and patterns."""

from __future__ import annotations

import pytest
from sweep_kit import names, sweep_of

from lit_cvit.sweep import chosen_cells
from lit_cvit.sweep.choice import Shard

SWEEP = sweep_of(
    seeds=[0, 1, 2],
    cells={"A": "", "A-few": {"start_from": "A"}, "B": "", "A-more": {"start_from": "A-few"}},
)


def share(text: str) -> list[str]:
    return [cell.name for cell in chosen_cells(SWEEP, shard=Shard.parse(text))]


def test_shares_are_disjoint_and_all_cells_together() -> None:
    shares = [share(f"{number}/4") for number in (1, 2, 3, 4)]
    assert sorted(sum(shares, [])) == sorted(names(SWEEP))
    # Six chains for four jobs.
    assert [len(each) for each in shares] == [6, 2, 3, 1]


def test_a_cell_is_in_the_share_of_the_one_it_starts_from() -> None:
    assert share("1/4") == ["A-0", "A-few-0", "A-more-0", "A-2", "A-few-2", "A-more-2"]


def test_more_jobs_than_chains_leave_some_without_a_cell() -> None:
    assert share("7/8") == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--shard.*2/8"):
        Shard.parse(text)


def test_patterns_choose_by_name() -> None:
    assert [cell.name for cell in chosen_cells(SWEEP, only=["B-*", "A-0"])] == ["A-0", "B-0", "B-1", "B-2"]


def test_a_pattern_without_a_cell_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="--only 'A-fev-0'.*'A-few-0'"):
        chosen_cells(SWEEP, only=["A-fev-0"])
