"""Stages and the union of tasks, as plain values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stream_kit import small_data

from lit_cvit.data.stage import UnionSource, joint_task


def test_seeds_of_a_stage_depend_on_run_stage_and_purpose() -> None:
    one, two = small_data().stages(seed=0)
    other = small_data().stages(seed=1)[0]
    seeds = {
        one.mixed_seed("adapter"),
        two.mixed_seed("adapter"),
        other.mixed_seed("adapter"),
        one.mixed_seed("x"),
    }
    assert len(seeds) == 4
    assert small_data().stages(seed=0)[0].mixed_seed("adapter") == one.mixed_seed("adapter")


def test_a_stages_generator_starts_anew_each_time() -> None:
    stage = small_data().stages(seed=0)[0]
    draws = [torch.rand(3, generator=stage.generator("x")) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])


def union() -> UnionSource:
    sources = [task.train for task in small_data(tasks=["GQA", "VQAv2", "Places365"]).stream]
    return UnionSource(tuple(source for source in sources if source is not None))


def test_the_union_is_one_split_after_the_other() -> None:
    source = union()
    assert len(source) == 32 + 32 + 40
    places = [
        (0, "GQA", "train-0"),
        (31, "GQA", "train-31"),
        (32, "VQAv2", "train-0"),
        (103, "Places365", "train-39"),
    ]
    for index, task, name in places:
        sample = source.sample(index)
        assert (sample.task, sample.id) == (task, name)


@pytest.mark.parametrize("index", [-1, 104])
def test_the_union_has_no_sample_beyond_its_ends(index: int) -> None:
    with pytest.raises(ValueError, match=rf"sample {index} of joint data is not in 0..103"):
        union().sample(index)


def test_the_unions_digest_depends_on_parts_and_order() -> None:
    source = union()
    turned = UnionSource(source.parts[::-1])
    assert source.digest() == union().digest() != turned.digest()


def test_joint_training_needs_training_data_of_every_task() -> None:
    benchmark = small_data().benchmark
    with pytest.raises(ValueError, match="'VizWiz' has none"):
        joint_task([benchmark.task("GQA"), benchmark.task("VizWiz")])


def test_the_joint_task_has_every_instruction_once() -> None:
    tasks = small_data(tasks=["GQA", "VQAv2"]).stream
    same = joint_task([tasks[0], dataclasses.replace(tasks[0], name="twin")])
    assert same.instructions == tasks[0].instructions
    assert joint_task(tasks).few_shot is False
