"""StepLog: a row of losses and rates per optimizer step in the run's `log.jsonl`.

Lightning logs a step after the callbacks of its end, so a checkpoint written there would come before the
row of its own step, and CSVLogger drops earlier rows on resume. This one writes before the checkpoint.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder
from lit_cvit.utils.distributed import num_ranks, summed

LOSS = "loss/"


class StepLog(Callback):
    """Appends a row per optimizer step.

    Loss terms are those of the whole step, over its micro-batches and all ranks; whatever else the method or
    a callback logs with `self.log` is in the row as it was on rank 0.

    Args:
        run: The run.
        every_n_steps: Optimizer steps between rows.
    """

    def __init__(self, run: RunFolder, every_n_steps: int) -> None:
        super().__init__()
        self.run = run
        self.every_n_steps = every_n_steps
        self._seen = 0
        self._rates: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # The schedule has moved on by the end of the batch.
        self._rates = {f"rate/{group['name']}": float(group["lr"]) for group in optimizer.param_groups}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, ContinualMethod)
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        terms = pl_module.take_step_terms()
        if step % self.every_n_steps:
            return
        values = summed(torch.stack([term.double() for term in terms.values()])) / num_ranks()
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith(LOSS)}
        losses = {f"{LOSS}{name}": float(value) for name, value in zip(terms, values, strict=True)}
        self.run.log({"step": step - 1, **losses, **logged, **self._rates})
