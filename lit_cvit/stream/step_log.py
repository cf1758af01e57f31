"""StepLog: a row of losses and rates per optimizer step in the run's `log.jsonl`.

Lightning logs a step after the callbacks of its end, so a checkpoint written there would come before the
row of its own step, and CSVLogger drops earlier rows on resume. This one writes before the checkpoint.
"""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer

LOSS = "loss/"


class StepLog(StageCallback):
    """Appends a row per optimizer step.

    Loss terms are those of the whole step, over its micro-batches and all ranks; whatever else the method or
    a callback logs with `self.log` is in the row as it was on rank 0.

    Args:
        run: The run.
        every_n_steps: Optimizer steps between rows.

    Attributes:
        losses: The loss terms of the step that is about to be applied, by name; `StepEnd` gives them.
    """

    def __init__(self, run: RunFolder, every_n_steps: int) -> None:
        super().__init__()
        self.run = run
        self.every_n_steps = every_n_steps
        self.losses: dict[str, float] = {}
        self._rates: dict[str, float] = {}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # The schedule has moved on by the end of the step.
        self._rates = {f"rate/{group['name']}": float(group["lr"]) for group in optimizer.param_groups}

    def on_step_end(self, trainer: StreamTrainer, method: ContinualMethod, step: int) -> None:
        if (step + 1) % self.every_n_steps:
            return
        others = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith(LOSS)}
        logged = dict(zip(others, _read(list(others.values())), strict=True))
        losses = {f"{LOSS}{name}": value for name, value in self.losses.items()}
        self.run.log({"step": step, **losses, **logged, **self._rates})


def _read(values: list[Tensor]) -> list[float]:
    """Single numbers of any type, in one transfer; those that were logged on the CPU join the others."""
    device = next((value.device for value in values if value.device.type != "cpu"), torch.device("cpu"))
    alike = [value.detach().to(device, torch.float64).reshape(()) for value in values]
    return torch.stack(alike).tolist() if values else []
