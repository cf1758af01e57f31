"""What happens in an optimizer step, and in which order.

1. The gradients are accumulated over micro-batches and averaged over ranks, and unscaled under float16.
2. `ContinualMethod.on_gradients`, which may change them.
3. `on_before_optimizer_step` of the callbacks, which read what the method left; then a loss or a gradient
   that is not finite ends the run (`FiniteCheck`).
4. What the step did not use is left alone (`AdapterSet.hold_unrouted`); the gradients are clipped; the
   optimizer steps.
5. `ContinualMethod.on_update`.
6. `StageCallback.on_step_end` of the callbacks, in their order; the row of the log and the checkpoint are the
   last of them, so the log has the row of every step that a checkpoint holds.

Lightning calls callbacks before the module, and at every micro-batch. `MethodSteps`, the first in the list of
the trainer, and `StepEnd`, the last, make the order above of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lit_cvit.data.tasks import Batch
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.stream.checkpoints import StageCheckpoints
from lit_cvit.stream.finite import FiniteCheck
from lit_cvit.stream.step_log import StepLog


def in_order(
    callbacks: Iterable[Callback],
    log: StepLog,
    checkpoints: StageCheckpoints,
    check: FiniteCheck,
    notify: Callable[[str, ContinualMethod, int], None],
) -> list[Callback]:
    """The trainer's callbacks as the order of a step needs them; those of an earlier fit are replaced.

    Args:
        callbacks: The callbacks.
        log: Writes the rows of the log.
        checkpoints: Writes the checkpoints.
        check: Ends a run whose numbers are not finite.
        notify: Calls a hook of all stage callbacks, by its name, with the method and the step.
    """
    own = MethodSteps | StepLog | StageCheckpoints | StepEnd
    others = [each for each in callbacks if not isinstance(each, own)]
    return [MethodSteps(), *others, log, checkpoints, StepEnd(log, check, notify)]


class MethodSteps(Callback):
    """Runs the method's hooks of a step before those of callbacks; the first in the trainer's list."""

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        pl_module.on_gradients(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        if _ends_step(batch):
            pl_module.on_update(trainer.global_step - 1)


class StepEnd(Callback):
    """Checks the gradients that all callbacks have seen, and ends a step when they are done with it.

    It is the last in the trainer's list.

    Args:
        log: Gets the loss terms of the step.
        check: Refuses a step whose numbers are not finite.
        notify: Calls a hook of all stage callbacks, by its name, with the method and the step.
    """

    def __init__(
        self, log: StepLog, check: FiniteCheck, notify: Callable[[str, ContinualMethod, int], None]
    ) -> None:
        super().__init__()
        self.log_of_steps, self.check, self.notify = log, check, notify

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        self.log_of_steps.losses, largest = self.check.read(trainer, pl_module)
        pl_module.adapters.hold_unrouted(largest)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        if _ends_step(batch):
            self.notify("on_step_end", pl_module, trainer.global_step - 1)


def _ends_step(batch: object) -> bool:
    assert isinstance(batch, Batch)
    assert batch.place is not None, "the sampler gives every training batch its place"
    return batch.place.ends_step
