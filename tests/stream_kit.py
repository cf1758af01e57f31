"""What the tests of streams and methods share: small fits, and exact comparison of what they left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks import StageEvaluation
from lit_cvit.backbones import Llava
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.methods import ContinualMethod, OptimizerSettings, SeqLoRA, SMoLoRA
from lit_cvit.run import RunFolder, read_jsonl
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer
from lit_cvit.testing.kit import differing as differing

TASKS = ("ScienceQA", "GQA")
STREAM = [*TASKS, "VQAv2"]
NUM_TRAIN, NUM_TEST, BATCH = 32, 5, 16
NUM_SHORT = 20
QUICK = 4


class Killed(BaseException):
    """Stands for the end of the process: nothing may handle it."""


class KillAt(Callback):
    """Ends the process before an optimizer step of the stream, or right after so many of them."""

    def __init__(self, step: int, *, after: bool = False) -> None:
        super().__init__()
        self.step, self.after = step, after

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if not self.after and trainer.global_step == self.step:
            raise Killed

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.after and trainer.global_step == self.step:
            raise Killed


class KillIn(StageCallback):
    """Ends the process in a hook of a stage: `on_stage_start` or `on_stage_saved`."""

    def __init__(self, hook: str, stage: int) -> None:
        super().__init__()
        self.at = (hook, stage)

    def on_stage_start(self, trainer: Any, method: Any, stage: Stage) -> None:
        if self.at == ("on_stage_start", stage.number):
            raise Killed

    def on_stage_saved(self, trainer: Any, method: Any, stage: Stage) -> None:
        if self.at == ("on_stage_saved", stage.number):
            raise Killed


class Snapshots(StageCallback):
    """Keeps the method's tensors around every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []

    def on_stage_start(self, trainer: Any, method: ContinualMethod, stage: Stage) -> None:
        self.before.append(snapshot(method))

    def on_stage_end(self, trainer: Any, method: ContinualMethod, stage: Stage) -> None:
        self.after.append(snapshot(method))


def small_data(**changes: Any) -> ContinualDataModule:
    """Two tasks of two steps each; one test sample of ScienceQA in five is text alone."""
    settings = {"num_train": NUM_TRAIN, "num_test": NUM_TEST, **changes.pop("settings", {})}
    return ContinualDataModule(**{"tasks": list(TASKS), "settings": settings, "batch_size": BATCH, **changes})


def quick_data(**changes: Any) -> ContinualDataModule:
    """The two tasks in steps of 4 samples: a fit of them takes a third of the time, and as many steps."""
    settings = {"num_train": 2 * QUICK, **changes.pop("settings", {})}
    return small_data(**{"settings": settings, "batch_size": QUICK, **changes})


def short_data(**changes: Any) -> ContinualDataModule:
    """Three tasks of two steps, of 16 and of 4 rows."""
    settings = {"num_train": NUM_SHORT, "num_test": 2}
    return small_data(**{"tasks": STREAM, "settings": settings, **changes})


def small_method(
    folder: Path,
    family: type[ContinualMethod] = SeqLoRA,
    *,
    rate: float = 5e-3,
    decay: float = 0.0,
    **more: Any,
) -> ContinualMethod:
    settings = OptimizerSettings(learning_rate=rate, weight_decay=decay)
    return family(Llava(str(folder)), **{"rank": 32, "alpha": 64, "optimizer": settings, **more})


def fragile_method(folder: Path, **more: Any) -> ContinualMethod:
    """Dropout, so that the generator's state matters, and a centre that is set at the stream's first step."""
    return small_method(folder, SMoLoRA, dropout=0.2, vu_center=True, **more)


def scoring() -> StageEvaluation:
    return StageEvaluation(downstream=False, report=False)


def fit(
    root: Path,
    method: ContinualMethod,
    data: ContinualDataModule | None = None,
    *,
    callbacks: list[Callback] | None = None,
    ckpt_path: str | None = None,
    plans_memory: bool = False,
    **settings: Any,
) -> ContinualTrainer:
    """Fit on the CPU and, unless callbacks are given, score the seen tasks after every stage.

    The data are `quick_data` if there are no others.

    The memory plan, a fifth of so small a fit, is left out unless it is asked for.
    """
    if callbacks is None:
        callbacks = [scoring()]
    trainer = ContinualTrainer(run_root=str(root), accelerator="cpu", callbacks=callbacks, **settings)
    with pytest.MonkeyPatch.context() as patch:
        if not plans_memory:
            patch.setattr("lit_cvit.stream.trainer.checked_plan", lambda *_: [])
        trainer.fit(method, datamodule=data or quick_data(), ckpt_path=ckpt_path)
    return trainer


def snapshot(method: ContinualMethod) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.tensors().items()}


def state_files(run: RunFolder) -> dict[str, bytes]:
    """What two equal runs have in common byte by byte: tensors, predictions and the matrix."""
    chosen = [*run.path.glob("stages/*/method.*"), *run.path.glob("stages/*/predictions/*.jsonl")]
    chosen += [run.path / "matrix.json", run.path / "matrix.csv"]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in chosen}


def log_rows(run: RunFolder) -> list[dict[str, Any]]:
    return list(read_jsonl(run.log_path))


def require_equal_resume(
    root: Path, method: Callable[[], ContinualMethod], mechanism: Callable[[], Callback], *, kill_at: int
) -> None:
    """Check that a run killed before a step and gone on with leaves what an undisturbed one does.

    Args:
        root: Where the runs go.
        method: Makes the method, anew for every fit.
        mechanism: Makes the callback beside it.
        kill_at: The step.
    """

    def run(name: str, *more: Callback, ckpt_path: str | None = None) -> RunFolder:
        callbacks = [*more, mechanism(), scoring()]
        every = {"checkpoint_every_n_steps": 1, "ckpt_path": ckpt_path}
        return fit(root / name, method(), short_data(), callbacks=callbacks, **every).run

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(kill_at))
    again = run("killed", ckpt_path="last")
    assert state_files(again) == state_files(whole)
    assert log_rows(again) == log_rows(whole)


class Trail(StageCallback):
    """Writes down every hook with the stage, its status at that time and the step counter."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, str, int]] = []
        self.optimizers: list[tuple[int, int]] = []
        self.rates: list[list[float]] = []

    def _note(self, trainer: ContinualTrainer, hook: str, stage: Stage | None = None) -> None:
        number = stage.number if stage else 0
        status = str(trainer.run.record.stage(number).status) if stage else ""
        self.seen.append((hook, number, status, trainer.global_step))

    def on_stream_start(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        self._note(trainer, "stream_start")

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._note(trainer, "start", stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        self.optimizers.append((id(optimizer), len(optimizer.state)))
        self.rates.append([])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates[-1].append(optimizer.param_groups[0]["lr"])

    def on_stage_end(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._note(trainer, "end", stage)

    def on_stage_saved(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._note(trainer, "saved", stage)

    def on_stream_end(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        self._note(trainer, "stream_end")


class Gradients(Callback):
    """Keeps the gradients of every optimizer step, before the method looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None})
