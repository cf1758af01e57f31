"""Training whose numbers are not finite ends at that step, and leaves what was stored before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from stream_kit import differing, fit, log_rows, quick_data, scoring, small_method, snapshot, state_files

from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod, SeqLoRA
from lit_cvit.run import RunFolder
from lit_cvit.stream.checkpoints import RunCheckpointIO, checkpoint_step
from lit_cvit.stream.finite import SKIPPED_IN_A_ROW
from lit_cvit.stream.stage_callback import StageCallback


class Spoils(Callback):
    """Puts a number into one gradient of some steps, and keeps the tensors before each of them."""

    def __init__(self, value: float, *steps: int) -> None:
        super().__init__()
        self.value, self.steps = value, steps
        self.before: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before.append(snapshot(pl_module))
        if trainer.global_step in self.steps:
            first = next(p for p in pl_module.parameters() if p.grad is not None)
            first.grad.view(-1)[0] = self.value


class AddsTerm(StageCallback):
    """A second loss term, whose value says nothing about its gradient, which is 0."""

    def __init__(self, value: float, step: int) -> None:
        super().__init__()
        self.value, self.step = value, step

    def on_stage_start(self, trainer: Any, method: ContinualMethod, stage: Any) -> None:
        def term(method: ContinualMethod, batch: Batch, outputs: LossOutput) -> torch.Tensor:
            return torch.tensor(self.value if trainer.global_step == self.step else 0.0)

        method.add_loss_term("also", term)


class Updates(SeqLoRA):
    """Leaves a tensor with an infinity after a step."""

    at = 1

    def on_update(self, step: int) -> None:
        if step == self.at:
            with torch.no_grad():
                next(p for p in self.parameters() if p.requires_grad).view(-1)[0] = math.inf


def run_of(root: Path) -> RunFolder:
    [path] = root.glob("*/run.json")
    return RunFolder.open(path.parent)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_applied(
    llava_folder: Path, tmp_path: Path, value: float
) -> None:
    method, spoils = small_method(llava_folder), Spoils(value, 3)
    with pytest.raises(ValueError, match="norm of the gradients is not finite") as caught:
        fit(tmp_path, method, callbacks=[spoils])
    message = str(caught.value)
    # The second of the second task's two steps.
    assert message.startswith("stage 2 (GQA), step 4 (row 3 of log.jsonl): ")
    assert "first in backbone." in message
    assert "model.optimizer.learning_rate (now 0.005)" in message
    assert "trainer.precision bf16-mixed or 32 (now 32-true)" in message
    assert "model.backbone.dtype bfloat16 or float32 (now float32)" in message
    assert f"the weights of {llava_folder}" in message
    assert differing(spoils.before[3], snapshot(method)) == []
    run = run_of(tmp_path)
    assert [row["step"] for row in log_rows(run)] == [0, 1, 2]
    assert run.stages_done() == [1]


def test_the_run_goes_on_from_the_last_checkpoint_as_if_nothing_had_happened(
    llava_folder: Path, tmp_path: Path
) -> None:
    def run(name: str, *more: Callback, ckpt_path: str | None = None) -> RunFolder:
        every = {"checkpoint_every_n_steps": 1, "ckpt_path": ckpt_path}
        data = quick_data(batch_size=2)
        return fit(
            tmp_path / name, small_method(llava_folder), data, callbacks=[*more, scoring()], **every
        ).run

    whole = run("whole")
    with pytest.raises(ValueError, match=r"stage 2 \(GQA\), step 7 "):
        run("spoilt", Spoils(math.nan, 6))
    assert checkpoint_step(run_of(tmp_path / "spoilt"), 2) == 6
    again = run("spoilt", ckpt_path="last")
    assert state_files(again) == state_files(whole)
    assert log_rows(again) == log_rows(whole)


def test_a_loss_term_that_is_not_finite_is_named_also_where_its_gradient_is_finite(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"step 2 .*: loss/also is inf, not a finite number; the step was"):
        fit(tmp_path, small_method(llava_folder), callbacks=[AddsTerm(math.inf, 1)])


def test_a_rate_that_is_much_too_high_ends_the_run_at_the_step_after(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"stage 1 \(ScienceQA\), step 2 .*: loss/lm is nan"):
        fit(tmp_path, small_method(llava_folder, rate=1e30), callbacks=[], gradient_clip_val=None)
    assert [row["step"] for row in log_rows(run_of(tmp_path))] == [0]
    assert run_of(tmp_path).stages_done() == []


def test_a_norm_that_overflows_is_named_without_a_gradient(llava_folder: Path, tmp_path: Path) -> None:
    """Clipping by it would make every gradient 0."""
    with pytest.raises(ValueError, match="norm of the gradients is not finite, though the loss is"):
        fit(tmp_path, small_method(llava_folder), callbacks=[Spoils(3e38, 0)])


@pytest.mark.parametrize(("every", "at"), [(0, 1), (1, 0)])
def test_a_state_that_an_update_spoilt_is_stored_neither_as_a_stage_nor_as_a_checkpoint(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, at: int
) -> None:
    monkeypatch.setattr(Updates, "at", at)
    words = rf"stage 1 \(ScienceQA\), step {at + 1} .*: the update left numbers that are not finite in \w"
    with pytest.raises(ValueError, match=words):
        fit(tmp_path, small_method(llava_folder, Updates), callbacks=[], checkpoint_every_n_steps=every)
    run = run_of(tmp_path)
    assert run.stages_done() == []
    assert not run.checkpoint_path.exists()


def test_a_checkpoint_with_numbers_that_are_not_finite_does_not_count(
    llava_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = fit(tmp_path, small_method(llava_folder), quick_data(tasks=["GQA"]), callbacks=[]).run
    state = {"w": torch.tensor([1.0, math.nan])}
    checkpoint = {"stage": 1, "global_step": 1, "state_dict": state}
    RunCheckpointIO(run).save_checkpoint(checkpoint, run.checkpoint_path)
    assert checkpoint_step(run, 1) is None
    assert "w holds numbers that are not finite" in caplog.text


# -- 16-mixed -----------------------------------------------------------------------------------------------


def fit_scaled(folder: Path, root: Path, callback: Callback) -> ContinualMethod:
    """A fit of one stage of 32 steps in float16 with a scaler."""
    method = small_method(folder)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    data = quick_data(tasks=["GQA"], settings={"num_train": 32}, batch_size=1)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    fit(root, method, data, callbacks=[callback], plugins=plugins)
    return method


def test_a_scaler_may_skip_steps_but_not_twenty_in_a_row(llava_folder: Path, tmp_path: Path) -> None:
    last = SKIPPED_IN_A_ROW - 1
    spoils = Spoils(math.inf, *(step for step in range(30) if step != last))
    fit_scaled(llava_folder, tmp_path / "some", spoils)
    assert differing(spoils.before[0], spoils.before[last]) == []
    assert differing(spoils.before[last], spoils.before[last + 1]) != []
    many = Spoils(math.inf, *range(1, 32))
    with pytest.raises(ValueError, match=r"step 21 .*: 20 steps in a row were skipped: at no scale"):
        fit_scaled(llava_folder, tmp_path / "many", many)
    assert differing(many.before[1], many.before[20]) == []


def test_a_loss_that_is_not_finite_is_not_excused_where_the_scaler_would_apply_the_step(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"step 3 .*: loss/also is nan"):
        fit_scaled(llava_folder, tmp_path, AddsTerm(math.nan, 2))
