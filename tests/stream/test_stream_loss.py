"""What one optimizer step adds up: micro-batches, fillers, text-only batches, loader workers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stream_kit import Gradients, differing, fit, quick_data, small_data, small_method, snapshot

from lit_cvit.data.tasks import Sample, SampleSource
from lit_cvit.methods import ContinualMethod, SeqLoRA, SMoLoRA

CAPTIONS: dict[str, Any] = {"tasks": ["Flickr30k"]}


def gradients(folder: Path, root: Path, batch_size: int, **settings: Any) -> list[dict[str, torch.Tensor]]:
    stored = Gradients()
    data = small_data(**CAPTIONS, settings={"num_train": 16}, batch_size=batch_size, global_batch_size=8)
    fit(root, small_method(folder, SMoLoRA, rate=1e-3, **settings), data, callbacks=[stored])
    return stored.steps


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest gradient."""
    assert one.keys() == other.keys()
    largest = max(float(grad.abs().max()) for grad in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


def test_accumulated_micro_batches_equal_one_batch(llava_folder: Path, tmp_path: Path) -> None:
    whole, parts = (gradients(llava_folder, tmp_path, size) for size in (8, 2))
    assert len(whole) == len(parts) == 2
    assert furthest(whole[0], parts[0]) < 1e-5
    assert furthest(whole[1], parts[1]) < 1e-3


def test_a_mean_of_means_is_another_gradient(llava_folder: Path, tmp_path: Path) -> None:
    whole, parts = (gradients(llava_folder, tmp_path, size, loss_reduction="micro_batch") for size in (8, 2))
    assert furthest(whole[0], parts[0]) > 1e-3


def test_both_reductions_agree_without_accumulation(llava_folder: Path, tmp_path: Path) -> None:
    step, micro = (
        gradients(llava_folder, tmp_path, 8, loss_reduction=each) for each in ("step", "micro_batch")
    )
    assert furthest(step[0], micro[0]) < 1e-6


def test_every_micro_batch_carries_the_answer_tokens_of_its_whole_step(llava_folder: Path) -> None:
    method = small_method(llava_folder)
    data = small_data(**CAPTIONS, batch_size=4, global_batch_size=12)
    data.attach(method.backbone.encoder)
    data.begin_stage(data.stages(seed=0)[0])
    batches = list(data.train_dataloader())
    own = [int(batch.answer_mask.sum()) for batch in batches]
    assert [len(batch) for batch in batches] == [4] * 8
    assert [batch.step_tokens for batch in batches] == [sum(own[:3])] * 3 + [sum(own[3:6])] * 3 + [
        sum(own[6:])
    ] * 2


def test_a_filler_counts_nothing(llava_folder: Path) -> None:
    method = small_method(llava_folder)
    data = small_data(**CAPTIONS, settings={"num_train": 9}, batch_size=4, global_batch_size=8)
    data.attach(method.backbone.encoder)
    data.trainer = SimpleNamespace(world_size=2, global_rank=1)  # type: ignore[assignment]
    data.begin_stage(data.stages(seed=0)[0])
    filler = list(data.train_dataloader())[-1]
    method.prepare()
    loss = method.backbone.loss(filler)
    assert (len(filler), float(loss.loss_sum), loss.num_tokens) == (1, 0.0, 0)
    data.trainer.global_rank = 0
    data.begin_stage(data.stages(seed=0)[0])
    counted = list(data.train_dataloader())[-1]
    assert filler.step_tokens == counted.step_tokens == int(counted.answer_mask.sum()) > 0


@dataclass(frozen=True)
class TextOnly:
    """The questions of ScienceQA that have no image."""

    source: SampleSource

    def __len__(self) -> int:
        return len(self.source) // 5

    def sample(self, index: int, epoch: int = 0) -> Sample:
        return self.source.sample(5 * index + 4, epoch)

    def digest(self) -> str:
        return f"text of {self.source.digest()}"


@pytest.mark.parametrize("family", [SeqLoRA, SMoLoRA])
@pytest.mark.parametrize("projector", ["lora", "full"])
def test_text_only_batches_train_and_leave_the_projector_alone(
    llava_folder: Path, tmp_path: Path, family: type[ContinualMethod], projector: str
) -> None:
    """With images first and decay, so that momentum and decay would move what text does not use."""
    with_images = quick_data(tasks=["GQA"], settings={"num_train": 4})
    more: dict[str, Any] = {"projector": projector, "decay": 0.5}
    first = fit(tmp_path, small_method(llava_folder, family, **more), with_images, callbacks=[])
    data = small_data(tasks=["ScienceQA"], settings={"num_train": 40}, batch_size=4)
    task = data.benchmark.stream[0]
    assert task.train is not None
    data.stream = (dataclasses.replace(task, train=TextOnly(task.train)),)
    assert all(task.train.sample(5 * index + 4).image is None for index in range(8))
    method = small_method(llava_folder, family, **more)
    fit(tmp_path, method, data, callbacks=[], start_from=str(first.run.path))
    changed = differing(first.run.load_stage(1).tensors, snapshot(method))
    assert [name for name in changed if name.startswith("projector")] == []
    assert {name.split(".")[1] for name in changed} == {"0", "1", "2"}


def test_a_projector_that_drifts_is_moved_by_decay(llava_folder: Path, tmp_path: Path) -> None:
    """The counter-check of the test above: without the hold the same batches would move it."""
    data = small_data(tasks=["ScienceQA"], settings={"num_train": 40}, batch_size=4)
    task = data.benchmark.stream[0]
    assert task.train is not None
    data.stream = (dataclasses.replace(task, train=TextOnly(task.train)),)
    method = small_method(llava_folder, decay=0.5, unrouted="drift", rate=1e-2)
    fit(tmp_path, method, data, callbacks=[])
    method_hold = small_method(llava_folder, decay=0.5, unrouted="hold", rate=1e-2)
    fit(tmp_path, method_hold, data_again(task), callbacks=[])
    moved = differing(snapshot(method), snapshot(method_hold))
    assert [name for name in moved if name.startswith("projector")] == [
        "projector.linear_1.blocks.0.A",
        "projector.linear_2.blocks.0.A",
    ]


def data_again(task: Any) -> Any:
    data = small_data(tasks=["ScienceQA"], settings={"num_train": 40}, batch_size=4)
    data.stream = (dataclasses.replace(task, train=TextOnly(task.train)),)
    return data


def test_loader_workers_change_nothing(llava_folder: Path, tmp_path: Path) -> None:
    here, workers = (small_method(llava_folder, dropout=0.1) for _ in range(2))
    fit(tmp_path, here, quick_data(tasks=["GQA"], epochs=2), callbacks=[])
    fit(tmp_path, workers, quick_data(tasks=["GQA"], epochs=2, num_workers=2), callbacks=[])
    assert differing(snapshot(here), snapshot(workers)) == []
