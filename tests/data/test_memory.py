"""The memory of old rows: what is kept, how much of it comes back, and which rows a step takes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stream_kit import small_data

from lit_cvit.data.memory import SubsetSource, cycled, memory_rows, recall_size, reservoir_rows, share
from lit_cvit.data.sampling import mix

SIZES = {"A": 30, "B": 50, "C": 20}


def test_kept_rows_are_the_first_of_a_permutation_that_seed_and_task_decide() -> None:
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(mix("memory", 3, "GQA"))).tolist()
    assert memory_rows(40, 7, seed=3, task="GQA") == drawn[:7]
    assert memory_rows(40, 7, seed=4, task="GQA") != drawn[:7]
    assert memory_rows(40, 7, seed=3, task="VQAv2") != drawn[:7]


def test_a_larger_memory_begins_with_the_smaller_one_and_repeats_no_row() -> None:
    whole = memory_rows(12, 99, seed=0, task="GQA")
    assert sorted(whole) == list(range(12))
    assert [memory_rows(12, number, seed=0, task="GQA") for number in (0, 3, 12)] == [[], whole[:3], whole]


def test_a_reservoir_keeps_the_smallest_priorities_of_all_rows() -> None:
    ranked = sorted(
        (priority, task, row)
        for task, number in SIZES.items()
        for row, priority in enumerate(
            torch.rand(
                number,
                generator=torch.Generator().manual_seed(mix("reservoir", 5, task)),
                dtype=torch.float64,
            ).tolist()
        )
    )
    expected = {task: [row for _, of, row in ranked[:10] if of == task] for task in SIZES}
    assert reservoir_rows(SIZES, 10, seed=5) == expected
    assert sum(map(len, expected.values())) == 10


def test_a_row_that_left_the_reservoir_never_comes_back() -> None:
    before = reservoir_rows({"A": 30, "B": 50}, 20, seed=1)
    after = reservoir_rows(SIZES, 20, seed=1)
    assert all(set(after[task]) <= set(before[task]) for task in before)
    assert sum(map(len, after.values())) == 20


def test_a_reservoir_that_is_not_full_has_every_row_and_an_empty_one_none() -> None:
    rows = reservoir_rows({"A": 3, "B": 2}, 9, seed=0)
    assert {task: sorted(stored) for task, stored in rows.items()} == {"A": [0, 1, 2], "B": [0, 1]}
    assert reservoir_rows({}, 9, seed=0) == {}


def test_a_reservoir_holds_tasks_in_proportion_to_their_rows() -> None:
    counts = dict.fromkeys(SIZES, 0)
    for seed in range(400):
        for task, rows in reservoir_rows(SIZES, 10, seed=seed).items():
            counts[task] += len(rows)
    # 4,000 draws: expected 1,200, 2,000 and 800, with a spread of about 25.
    assert {task: round(count / 200) for task, count in counts.items()} == {"A": 6, "B": 10, "C": 4}


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (1000, {"sizes": "fixed", "amount": 200}, 200),
        (150, {"sizes": "fixed", "amount": 200}, 150),
        (1000, {"sizes": "fraction", "amount": 0.05}, 50),
        (30, {"sizes": "fraction", "amount": 0.05}, 2),
        (1000, {"sizes": "similarity", "amount": 200, "similarity": 0.3}, 140),
        (1000, {"sizes": "similarity", "amount": 200, "similarity": 1.0}, 0),
        (1000, {"sizes": "similarity", "amount": 200, "similarity": 0.0}, 200),
        (100, {"sizes": "similarity", "amount": 200, "similarity": 0.3}, 100),
        (1000, {"sizes": "similarity", "amount": 200, "similarity": -0.4}, 200),
        (1000, {"sizes": "similarity", "amount": 200, "similarity": 1.2}, 0),
    ],
)
def test_the_size_of_a_recall(rows: int, settings: dict[str, Any], expected: int) -> None:
    assert recall_size(rows, **settings) == expected


def test_a_size_by_similarity_needs_one() -> None:
    with pytest.raises(ValueError, match="needs the similarity of the two tasks, got none"):
        recall_size(10, sizes="similarity", amount=5)


@given(st.integers(1, 12), st.integers(1, 15))
def test_steps_go_through_the_memory_evenly(num_rows: int, batch_size: int) -> None:
    size = min(num_rows, batch_size)
    taken = [cycled(num_rows, batch_size, step=step, seed=7) for step in range(num_rows)]
    assert [len(rows) for rows in taken] == [size] * num_rows
    flat = [row for rows in taken for row in rows]
    passes = [flat[start : start + num_rows] for start in range(0, len(flat), num_rows)]
    assert [sorted(rows) for rows in passes] == [list(range(num_rows))] * size


def test_every_pass_has_an_order_of_its_own() -> None:
    one, two = (cycled(20, 20, step=step, seed=0) for step in (0, 1))
    assert one != two
    assert cycled(20, 20, step=0, seed=0) == one != cycled(20, 20, step=0, seed=1)


@given(st.integers(0, 20), st.integers(1, 6))
def test_parts_of_a_step_are_like_sized_and_together_the_whole(num_rows: int, parts: int) -> None:
    rows = list(range(100, 100 + num_rows))
    dealt = [share(rows, part, parts) for part in range(parts)]
    assert sum(dealt, []) == rows
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_subset_is_a_split_of_its_own() -> None:
    source = small_data().stream[1].train
    assert source is not None
    subset = SubsetSource(source, (5, 2))
    assert [subset.sample(index).id for index in range(len(subset))] == ["train-5", "train-2"]
    with pytest.raises(ValueError, match=r"sample 2 of a memory is not in 0..1"):
        subset.sample(2)
    digests = {subset.digest(), SubsetSource(source, (2, 5)).digest(), source.digest()}
    assert len(digests) == 3
    assert pickle.loads(pickle.dumps(subset)).digest() == subset.digest()


def test_a_subset_draws_instructions_of_the_epoch() -> None:
    source = small_data(tasks=["GQA"], instructions="multi").stream[0].train
    assert source is not None
    subset = SubsetSource(source, tuple(range(20)))
    drawn = [[subset.sample(index, epoch).instruction for index in range(20)] for epoch in (0, 1)]
    assert drawn[0] != drawn[1]
    assert drawn[1] == [source.sample(index, 1).instruction for index in range(20)]
