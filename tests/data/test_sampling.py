from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_cvit.data import sampling
from lit_cvit.data.sampling import (
    EvalBatchSampler,
    EvalPlan,
    MicroBatch,
    Pick,
    Place,
    TrainBatchSampler,
    epoch_order,
    evenly_spaced,
    global_batches,
    mix,
)

sizes = st.integers(1, 70)
worlds = st.integers(1, 4)


def samplers(
    num_samples: int, batch_size: int, accumulate: int, world_size: int, **more: Any
) -> list[TrainBatchSampler]:
    share = {"seed": 0, "stage": 1} | more
    return [
        TrainBatchSampler(
            num_samples,
            batch_size,
            batch_size * accumulate * world_size,
            rank=rank,
            world_size=world_size,
            **share,
        )
        for rank in range(world_size)
    ]


def steps(ranks: list[TrainBatchSampler]) -> list[list[int]]:
    """Counted indices of every optimizer step, over all ranks, sorted."""
    found: dict[int, list[int]] = {}
    for micro in (micro for rank in ranks for micro in rank):
        found.setdefault(micro.place.step, []).extend(p.index for p in micro.picks if p.counted)
    return [sorted(found[step]) for step in range(len(found))]


def test_mix_is_a_fixed_function() -> None:
    assert mix("order", 0, 1, 0) == 6932282010589847276
    assert 0 <= mix(3) < 2**63


def test_mix_tells_parts_and_types_apart() -> None:
    seeds = {
        mix(1, 23),
        mix(12, 3),
        mix("1", 23),
        mix("1", "23"),
        mix("123"),
        mix(123),
        mix(-123),
        mix(),
        mix(""),
    }
    assert len(seeds) == 9


def test_the_order_of_an_epoch_is_a_fixed_function_of_seed_stage_and_epoch() -> None:
    assert epoch_order(8, seed=0, stage=1, epoch=0).tolist() == [2, 0, 3, 6, 4, 7, 1, 5]
    others = [(1, 1, 0), (0, 2, 0), (0, 1, 1)]
    orders = [tuple(epoch_order(8, seed=s, stage=t, epoch=e).tolist()) for s, t, e in others]
    assert len({(2, 0, 3, 6, 4, 7, 1, 5), *orders}) == 4


def test_the_last_global_batch_keeps_what_is_left() -> None:
    batches = global_batches(10, 4, seed=0, stage=1, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert global_batches(0, 4, seed=0, stage=1, epoch=0) == ()


@given(
    num=sizes, batch=st.integers(1, 5), accumulate=st.integers(1, 4), world=worlds, epoch=st.integers(0, 3)
)
def test_every_index_is_counted_once_an_epoch(
    num: int, batch: int, accumulate: int, world: int, epoch: int
) -> None:
    ranks = samplers(num, batch, accumulate, world, epoch=epoch)
    picks = [pick for rank in ranks for one in rank for pick in one.picks]
    assert sorted(pick.index for pick in picks if pick.counted) == list(range(num))
    assert {pick.epoch for pick in picks} == {epoch}


@given(num=sizes, share=st.integers(1, 5), seed=st.integers(-5, 5), stage=st.integers(1, 9))
def test_the_union_over_ranks_of_a_step_does_not_depend_on_the_world(
    num: int, share: int, seed: int, stage: int
) -> None:
    expected = [sorted(b.tolist()) for b in global_batches(num, 12 * share, seed=seed, stage=stage, epoch=0)]
    for world, batch in ((1, 12 * share), (1, 1), (2, 3), (3, 4 * share), (4, 1), (6, 2)):
        accumulate = 12 * share // (world * batch)
        assert steps(samplers(num, batch, accumulate, world, seed=seed, stage=stage)) == expected


@given(num=sizes, batch=st.integers(1, 5), accumulate=st.integers(1, 4), world=worlds)
def test_all_ranks_run_equally_many_micro_batches_that_are_never_empty_or_too_large(
    num: int, batch: int, accumulate: int, world: int
) -> None:
    for rank in samplers(num, batch, accumulate, world):
        batches = [micro.picks for micro in rank]
        assert len(batches) == len(rank) == len(samplers(num, batch, accumulate, world)[0])
        assert all(1 <= len(one) <= batch for one in batches)
        assert all(len(one) == 1 for one in batches if not all(pick.counted for pick in one))


@given(
    num=sizes, batch=st.integers(1, 5), accumulate=st.integers(1, 4), world=worlds, skip=st.integers(0, 80)
)
def test_skipping_k_equals_dropping_the_first_k(
    num: int, batch: int, accumulate: int, world: int, skip: int
) -> None:
    for rank in samplers(num, batch, accumulate, world):
        whole = list(rank)
        skip = min(skip, len(rank))
        rank.set_epoch(0, skip=skip)
        assert list(rank) == whole[skip:]
        assert len(rank) == len(whole)


def test_a_rank_without_a_sample_in_the_last_step_gets_one_filler() -> None:
    assert epoch_order(5, seed=0, stage=1, epoch=0).tolist() == [3, 1, 0, 4, 2]
    tokens = torch.tensor([1, 2, 4, 8, 16])
    (full, last), (full_too, filler) = samplers(5, 2, 1, 2, answer_tokens=lambda epoch: tokens)
    assert full == MicroBatch((Pick(3, 0), Pick(1, 0)), Place(0, 0, 1), 10, 27, 4)
    assert full_too == MicroBatch((Pick(0, 0), Pick(4, 0)), Place(0, 0, 1), 17, 27, 4)
    assert last == MicroBatch((Pick(2, 0),), Place(1, 0, 1), 4, 4, 1)
    assert filler == MicroBatch((Pick(2, 0, counted=False),), Place(1, 0, 1), 0, 4, 1)


def test_the_last_step_is_shared_evenly() -> None:
    dealt = [[[pick.index for pick in one.picks] for one in rank] for rank in samplers(5, 2, 1, 4)]
    assert dealt == [[[3, 1]], [[0]], [[4]], [[2]]]


def test_another_epoch_clears_the_skip_and_changes_the_order() -> None:
    (sampler,) = samplers(20, 4, 1, 1, skip=3)
    assert len(list(sampler)) == 2
    sampler.set_epoch(1)
    flat = [pick for micro in sampler for pick in micro.picks]
    assert [pick.index for pick in flat] == epoch_order(20, seed=0, stage=1, epoch=1).tolist()
    assert {pick.epoch for pick in flat} == {1}


def test_places_count_the_steps_of_the_stage_whose_last_one_of_an_epoch_may_be_short() -> None:
    (sampler,) = samplers(28, 4, 3, 1)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append([tuple(micro.place) for micro in sampler])
    assert epochs == [
        [(step, 0, 3), (step, 1, 3), (step, 2, 3), (step + 1, 0, 3), (step + 1, 1, 3), (step + 1, 2, 3)]
        + [(step + 2, 0, 1)]
        for step in (0, 3)
    ]
    ends = [Place(*place).ends_step for place in epochs[0]]
    assert ends == [False, False, True, False, False, True, True]


@given(num=sizes, batch=st.integers(1, 5), accumulate=st.integers(1, 4), world=worlds)
def test_every_micro_batch_has_the_answer_tokens_of_its_whole_step(
    num: int, batch: int, accumulate: int, world: int
) -> None:
    tokens = torch.arange(1, num + 1, dtype=torch.int32)
    own: dict[int, int] = {}
    steps: dict[int, set[int]] = {}
    ranks = samplers(num, batch, accumulate, world, answer_tokens=lambda epoch: tokens + epoch, epoch=1)
    for micro in (micro for rank in ranks for micro in rank):
        assert micro.tokens == sum(pick.index + 2 for pick in micro.picks if pick.counted)
        own[micro.place.step] = own.get(micro.place.step, 0) + micro.tokens
        steps.setdefault(micro.place.step, set()).add(micro.step_tokens)
    assert steps == {step: {total} for step, total in own.items()}
    assert sum(own.values()) == sum(range(2, num + 2))


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = sampling.epoch_order

    def counted(num_samples: int, **settings: int) -> torch.Tensor:
        drawn.append(settings["epoch"])
        return real(num_samples, **settings)

    monkeypatch.setattr(sampling, "epoch_order", counted)
    (sampler,) = samplers(70, 2, 4, 1)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == 35
    assert drawn == [0, 1]


def test_steps_and_accumulation_are_counted() -> None:
    (sampler,) = samplers(70, 4, 8, 1)
    assert (sampler.num_steps, sampler.accumulate, len(sampler)) == (3, 8, 18)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"global_batch_size": 30},
            "size 30 must be a multiple of batch_size x world_size = 4 x 2 = 8; the nearest is 32",
        ),
        (
            {"global_batch_size": 1},
            "global_batch_size 1 must be a multiple of batch_size x world_size = 4 x 2 = 8; the nearest is 8",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"rank": 2}, "rank must be 0 to world_size - 1 = 1, got 2"),
        ({"skip": 14}, r"skip must be 0 to 13 \(the micro-batches of the epoch\), got 14"),
        ({"skip": -1}, r"skip must be 0 to 13 \(the micro-batches of the epoch\), got -1"),
    ],
)
def test_a_bad_training_setting_is_refused(change: dict[str, int], message: str) -> None:
    good = {
        "num_samples": 100,
        "batch_size": 4,
        "global_batch_size": 32,
        "seed": 0,
        "stage": 1,
        "world_size": 2,
    }
    with pytest.raises(ValueError, match=message):
        TrainBatchSampler(**good | change)


def test_evaluation_batches_hold_samples_of_like_length_longest_first() -> None:
    assert EvalPlan.of([5, 9, 5, 1, 9], 2).batches == [[1, 4], [0, 2], [3]]


@given(lengths=st.lists(st.integers(0, 3), max_size=90))
def test_samples_of_equal_length_are_evaluated_in_the_order_of_the_split(lengths: list[int]) -> None:
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plan = EvalPlan.of(torch.tensor(lengths, dtype=torch.int32), 4)
    assert [index for batch in plan.batches for index in batch] == by_length


@given(lengths=st.lists(st.integers(0, 9), max_size=60), batch=st.integers(1, 7), world=worlds)
def test_evaluation_batches_do_not_depend_on_the_world(lengths: list[int], batch: int, world: int) -> None:
    plan = EvalPlan.of(lengths, batch)
    assert list(EvalBatchSampler(plan)) == plan.batches
    dealt = [list(EvalBatchSampler(plan, rank=rank, world_size=world)) for rank in range(world)]
    assert [plan.batches[rank::world] for rank in range(world)] == dealt
    assert sorted(index for one in plan.batches for index in one) == list(range(len(lengths)))


@given(num=st.integers(0, 60), batch=st.integers(1, 7), world=worlds)
def test_a_round_of_an_evaluation_is_the_next_batch_of_every_rank(num: int, batch: int, world: int) -> None:
    plan = EvalPlan.of(range(num), batch)
    ranks = [list(EvalBatchSampler(plan, rank=rank, world_size=world)) for rank in range(world)]
    assert plan.num_rounds(world) == max(map(len, ranks))
    for number in range(plan.num_rounds(world) + 1):
        assert plan.round(number, world) == [each[number] for each in ranks if number < len(each)]


@given(num=st.integers(0, 60), batch=st.integers(1, 7), world=worlds, skip=st.integers(0, 60))
def test_skipping_evaluation_batches_equals_dropping_them(
    num: int, batch: int, world: int, skip: int
) -> None:
    plan = EvalPlan.of(range(num), batch)
    for rank in range(world):
        whole = list(EvalBatchSampler(plan, rank=rank, world_size=world))
        skip = min(skip, len(whole))
        rest = EvalBatchSampler(plan, rank=rank, world_size=world, skip_batches=skip)
        assert list(rest) == whole[skip:]
        assert len(rest) == len(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": -1}, "rank must be 0 to world_size - 1 = 0, got -1"),
        ({"skip_batches": 3}, r"skip_batches must be 0 to 2 \(the batches of this rank\), got 3"),
    ],
)
def test_a_bad_evaluation_setting_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvalBatchSampler(EvalPlan.of([1, 2, 3], 2), **change)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EvalPlan.of([1, 2, 3], 0)


def test_rows_are_spaced_evenly() -> None:
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 1000) == [0, 1, 2]
    assert evenly_spaced(0, 5) == []
