"""`start_from`: a run whose method begins as a finished run's method ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import KillAt, Killed, differing, fit, quick_data, small_method, snapshot

from lit_cvit.methods import ContinualMethod, DirLoRA, SeqLoRA, SMoLoRA
from lit_cvit.run import Status
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer, restore_method

ONE_STEP: dict[str, Any] = {"settings": {"num_train": 4, "num_test": 4}}
CASES = [
    (SeqLoRA, {}),
    (SMoLoRA, {}),
    (DirLoRA, {}),
    (DirLoRA, {"projector": "full"}),
    (SeqLoRA, {"projector": "full"}),
]
IDS = ["seq_lora", "smolora", "dir_lora", "dir_lora_full_projector", "seq_lora_full_projector"]


class AtStart(StageCallback):
    """Keeps the method's tensors as the first stage finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, torch.Tensor] = {}

    def on_stream_start(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        self.tensors = snapshot(method)


@pytest.mark.parametrize(("family", "settings"), CASES, ids=IDS)
def test_a_chain_of_runs_goes_on_from_the_tensors_of_the_one_before(
    llava_folder: Path, tmp_path: Path, family: type[ContinualMethod], settings: dict[str, Any]
) -> None:
    tasks = ("ScienceQA", "GQA", "VQAv2")
    ended: list[dict[str, torch.Tensor]] = []
    path: str | None = None
    for number, task in enumerate(tasks):
        start, method = AtStart(), small_method(llava_folder, family, **settings)
        trainer = fit(
            tmp_path, method, quick_data(tasks=[task], **ONE_STEP), callbacks=[start], start_from=path
        )
        if number:
            assert differing(start.tensors, ended[-1]) == []
        ended.append(snapshot(method))
        path = str(trainer.run.path)
    grows = family is DirLoRA
    assert [len(tensors) // len(ended[0]) for tensors in ended] == ([1, 2, 3] if grows else [1, 1, 1])
    again = small_method(llava_folder, family, **settings)
    again.prepare()
    assert restore_method(again, trainer.run) is not None
    assert differing(snapshot(again), ended[-1]) == []


def test_dir_lora_keeps_the_blocks_of_the_run_it_starts_from(llava_folder: Path, tmp_path: Path) -> None:
    first = fit(
        tmp_path, small_method(llava_folder, DirLoRA), quick_data(tasks=["GQA"], **ONE_STEP), callbacks=[]
    )
    method = small_method(llava_folder, DirLoRA)
    fit(
        tmp_path,
        method,
        quick_data(tasks=["VQAv2"], **ONE_STEP),
        callbacks=[],
        start_from=str(first.run.path),
    )
    stored, now = first.run.load_stage(1).tensors, snapshot(method)
    assert [name for name, tensor in stored.items() if not torch.equal(now[name], tensor)] == []
    assert method.learned == ["GQA", "VQAv2"]


def test_dir_lora_trains_and_uses_a_new_block_for_a_task_learned_again(
    llava_folder: Path, tmp_path: Path
) -> None:
    data: dict[str, Any] = {"tasks": ["GQA"], **ONE_STEP}
    first = fit(tmp_path, small_method(llava_folder, DirLoRA), quick_data(**data), callbacks=[])
    method = small_method(llava_folder, DirLoRA)
    second = fit(tmp_path, method, quick_data(**data), callbacks=[], start_from=str(first.run.path))
    sample = second.data.stream[0].test.sample(0)
    gate = method.sample_facts(method.backbone.encode([sample], with_answers=False))["gate"]
    assert gate.tolist() == [[0.0, 1.0]]
    newest = [bank.block(1).B for bank in method.banks.values()]
    assert all(bool(up.any()) for up in newest)


def test_the_few_shot_task_is_learned_on_top_of_a_finished_run(llava_folder: Path, tmp_path: Path) -> None:
    first = fit(tmp_path, small_method(llava_folder, SMoLoRA), quick_data(**ONE_STEP), callbacks=[])
    data = quick_data(tasks=["Places365"], epochs=2, settings={"shots": 2, "num_test": 4}, batch_size=16)
    trainer = fit(tmp_path, small_method(llava_folder, SMoLoRA), data, start_from=str(first.run.path))
    assert [(stage.task.name, stage.num_steps) for stage in trainer.stages] == [("Places365", 2)]
    assert trainer.global_step == 2
    assert list(trainer.run.matrix().tasks) == ["Places365"]
    assert trainer.run.record.start_from is not None
    assert trainer.run.record.start_from["path"] == str(first.run.path.resolve())
    assert "Places365" not in [task.name for task in data.downstream]


def test_a_killed_run_starts_again_from_the_stage_it_started_from(llava_folder: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"settings": {"num_train": 4, "num_test": 2}}
    first = fit(tmp_path, small_method(llava_folder), quick_data(tasks=["GQA"], **few), callbacks=[])
    one = first.run.load_stage(1).tensors

    def second(root: Path, *more: Any, ckpt_path: str | None = None) -> dict[str, torch.Tensor]:
        start = AtStart()
        data = quick_data(tasks=["VQAv2"], **few)
        method, source = small_method(llava_folder), str(first.run.path)
        fit(root, method, data, callbacks=[start, *more], start_from=source, ckpt_path=ckpt_path)
        return start.tensors

    with pytest.raises(Killed):
        second(tmp_path / "second", KillAt(0))
    first.run.plan_stage(2, "VQAv2", {"seed": 0})
    first.run.save_stage(2, {name: tensor + 1 for name, tensor in one.items()}, {})
    assert differing(second(tmp_path / "second", ckpt_path="last"), one) == []
    with pytest.raises(Killed):
        second(tmp_path / "third", KillAt(0))
    first.run.record.stages[1].status = Status.PLANNED
    first.run.plan_stage(2, "VQAv2", {"seed": 0})
    first.run.save_stage(2, one, {})
    with pytest.raises(ValueError, match=r"stage 2 of .* was trained again since"):
        second(tmp_path / "third", ckpt_path="last")


def test_a_run_cannot_start_from_another_method(llava_folder: Path, tmp_path: Path) -> None:
    data = quick_data(tasks=["GQA"], **ONE_STEP)
    first = fit(tmp_path, small_method(llava_folder, SeqLoRA), data, callbacks=[])
    with pytest.raises(ValueError, match="the method of that run is SeqLoRA, not SMoLoRA"):
        fit(tmp_path, small_method(llava_folder, SMoLoRA), quick_data(), start_from=str(first.run.path))
    assert [path.name for path in tmp_path.iterdir()] == ["seqlora-cvit-mini"]


def test_a_run_cannot_start_from_nothing(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        fit(tmp_path, small_method(llava_folder), start_from=str(tmp_path / "missing"))
