"""Rows that a callback mixes into a stage's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stream_kit import small_data

from lit_cvit.backbones import Llava
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.memory import SubsetSource


def extended(rows: tuple[int, ...], **changes: Any) -> ContinualDataModule:
    """The second stage with rows of the first task."""
    data = small_data(**changes)
    first, second = data.stages(seed=0)
    assert first.task.train is not None
    data.extend_stage(second, "old", SubsetSource(first.task.train, rows))
    return data


@pytest.mark.parametrize(("rows", "epochs", "steps"), [(1, 1, 3), (16, 1, 3), (17, 1, 4), (17, 3, 12)])
def test_further_rows_lengthen_their_stage_alone(rows: int, epochs: int, steps: int) -> None:
    data = extended(tuple(range(rows)), epochs=epochs)
    first, second = data.stages(seed=0)
    assert data.extended(first) is first
    longer = data.extended(second)
    assert longer.num_steps == steps
    assert longer.task is second.task
    assert (longer.number, longer.seen, longer.seed) == (second.number, second.seen, second.seed)


def test_rows_under_the_same_name_replace_the_earlier_ones_and_under_another_join() -> None:
    data = extended((0, 1))
    first, second = data.stages(seed=0)
    source = first.task.train
    assert source is not None
    data.extend_stage(second, "old", SubsetSource(source, tuple(range(20))))
    assert data.extended(second).num_steps == 4
    data.extend_stage(second, "more", SubsetSource(source, tuple(range(20))))
    assert data.extended(second).num_steps == 5


def test_an_epoch_shows_own_and_further_rows_once_in_one_order(llava_folder: Path) -> None:
    data = small_data()
    data.attach(Llava(str(llava_folder)).encoder)
    first, second = data.stages(seed=0)
    assert first.task.train is not None
    data.extend_stage(second, "old", SubsetSource(first.task.train, (5, 7, 9)))
    data.begin_stage(second)
    batches = [[(s.task, s.id) for s in batch.samples] for batch in data.train_dataloader()]
    own = [("GQA", f"train-{row}") for row in range(32)]
    assert [len(batch) for batch in batches] == [16, 16, 3]
    assert sorted(sum(batches, [])) == sorted([*own, *(("ScienceQA", f"train-{row}") for row in (5, 7, 9))])
    assert batches[2] != [("ScienceQA", f"train-{row}") for row in (5, 7, 9)]


def test_another_fit_begins_without_further_rows(llava_folder: Path) -> None:
    data = extended((0, 1))
    data.attach(Llava(str(llava_folder)).encoder)
    second = data.stages(seed=0)[1]
    assert data.extended(second) is second
