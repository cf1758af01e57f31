"""ContinualDataModule: the stream, its stages, and the batches of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import small_data

from lit_cvit.backbones import Llava
from lit_cvit.data.datamodule import ContinualDataModule


@pytest.fixture(scope="module")
def encoder(llava_folder: Path) -> Any:
    return Llava(str(llava_folder)).encoder


def test_the_stream_is_the_benchmarks_unless_tasks_are_named() -> None:
    assert [t.name for t in ContinualDataModule().stream] == [
        "ScienceQA",
        "TextVQA",
        "Flickr30k",
        "ImageNet",
        "GQA",
        "VQAv2",
    ]
    assert [t.name for t in small_data(tasks=["GQA", "Places365", "ScienceQA"]).stream] == [
        "GQA",
        "Places365",
        "ScienceQA",
    ]


def test_held_out_tasks_are_neither_learned_nor_few_shot() -> None:
    assert [t.name for t in small_data().downstream] == ["VizWiz", "TextCaps", "OCR-VQA"]
    assert [t.name for t in small_data(tasks=["Places365"]).downstream] == ["VizWiz", "TextCaps", "OCR-VQA"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["GQAA"], "GQA"),
        (["VizWiz"], "'VizWiz' has no training samples"),
        (["GQA", "GQA"], "different tasks"),
        ([], "at least one"),
    ],
)
def test_tasks_that_make_no_stream_are_refused(tasks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_data(tasks=tasks).stream  # noqa: B018


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "epochs"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"data.{name} must be at least 1, got 0"):
        small_data(**{name: 0})


@pytest.mark.parametrize(
    ("changes", "num_steps"),
    [
        ({}, 2),
        ({"epochs": 3}, 6),
        ({"batch_size": 5}, 7),
        ({"batch_size": 4, "global_batch_size": 12}, 3),
        ({"batch_size": 64}, 1),
    ],
)
def test_steps_of_a_stage_round_up_per_epoch(changes: dict[str, Any], num_steps: int) -> None:
    assert [stage.num_steps for stage in small_data(**changes).stages(seed=0)] == [num_steps, num_steps]


def test_stages_know_their_number_task_and_what_was_seen() -> None:
    stages = small_data(tasks=["GQA", "VQAv2"]).stages(seed=7)
    assert [(s.number, s.task.name, s.seed, [t.name for t in s.seen]) for s in stages] == [
        (1, "GQA", 7, ["GQA"]),
        (2, "VQAv2", 7, ["GQA", "VQAv2"]),
    ]


def test_joint_training_is_one_stage_on_the_union() -> None:
    (stage,) = small_data(tasks=["GQA", "VQAv2"]).stages(seed=0, joint=True)
    assert stage.task.train is not None
    assert (stage.task.name, len(stage.task.train), stage.num_steps) == ("joint", 64, 4)
    assert [stage.task.train.sample(index).task for index in (31, 32)] == ["GQA", "VQAv2"]


def test_global_batch_size_that_does_not_divide_is_refused() -> None:
    data = small_data(batch_size=4, global_batch_size=6)
    with pytest.raises(ValueError, match="global_batch_size 6 must be a multiple"):
        data.begin_stage(data.stages(seed=0)[0])


def indices(data: ContinualDataModule, encoder: Any, epoch: int = 0) -> list[list[int]]:
    data.attach(encoder)
    data.begin_stage(data.stages(seed=0)[0])
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [list(batch.indices) for batch in loader]


def test_an_epoch_shows_every_sample_once_and_in_its_own_order(encoder: Any) -> None:
    first, second = (indices(small_data(), encoder, epoch) for epoch in (0, 1))
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(32))
    assert first != second
    assert indices(small_data(), encoder) == first


def test_micro_batches_cut_the_same_order(encoder: Any) -> None:
    whole = indices(small_data(), encoder)
    parts = indices(small_data(batch_size=4, global_batch_size=16), encoder)
    assert sum(parts, []) == sum(whole, [])


def test_instructions_of_a_sample_are_drawn_anew_each_epoch(encoder: Any) -> None:
    data = small_data(tasks=["GQA"], instructions="multi")
    data.attach(encoder)
    data.begin_stage(data.stages(seed=0)[0])
    loader = data.train_dataloader()
    drawn: list[dict[int, str]] = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        pairs = [(i, s.instruction) for b in loader for i, s in zip(b.indices, b.samples, strict=True)]
        drawn.append(dict(pairs))
    assert set(drawn[0].values()) <= set(data.stream[0].instructions)
    assert drawn[0] != drawn[1]
    source = data.stream[0].train
    assert source is not None
    assert all(source.sample(index, 1).instruction == text for index, text in drawn[1].items())


def test_loader_workers_give_the_same_batches(encoder: Any) -> None:
    assert indices(small_data(num_workers=2), encoder) == indices(small_data(), encoder)


def test_loaders_draw_nothing_from_the_global_generator(encoder: Any) -> None:
    data = small_data()
    before = torch.get_rng_state()
    indices(data, encoder)
    list(data.eval_loader(data.stream[0]))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_asks_every_sample_once_and_the_longest_first(encoder: Any) -> None:
    data = small_data(eval_batch_size=2)
    data.attach(encoder)
    batches = list(data.eval_loader(data.stream[0]))
    assert sorted(sum((list(batch.indices) for batch in batches), [])) == list(range(5))
    lengths = [encoder.prompt_length(sample) for batch in batches for sample in batch.samples]
    assert lengths == sorted(lengths, reverse=True)
    assert all(batch.answer_mask is None and batch.step_tokens == 0 for batch in batches)


def test_batches_need_an_encoder() -> None:
    data = small_data()
    with pytest.raises(RuntimeError, match=r"attach\(encoder\) must run"):
        data.eval_loader(data.stream[0])
