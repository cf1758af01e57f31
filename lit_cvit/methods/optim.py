"""Optimizer and schedule of a stage, shared by all methods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lit_cvit.utils.settings import BelowOne, NotNegative, check_settings, dataclass_hints


@dataclass
class OptimizerSettings:
    """How a stage is optimised: AdamW with warm-up.

    Attributes:
        learning_rate: Peak rate of what trains in the decoder.
        projector_learning_rate: Peak rate of what trains in the projector; none means the same.
        weight_decay: Decoupled weight decay.
        warmup_ratio: Share of a stage's steps over which the rate rises linearly.
        schedule: `cosine` falls to 0 at the end of the stage, `constant` stays.
        betas: AdamW's moment decay rates.
    """

    learning_rate: NotNegative = 2e-4
    projector_learning_rate: NotNegative | None = None
    weight_decay: NotNegative = 0.0
    warmup_ratio: BelowOne = 0.03
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: one does not fit its type hint; names it, the value and what is allowed.
        """
        check_settings(dataclass_hints(type(self)), vars(self), prefix="model.optimizer.")

    def factor(self, step: int, num_steps: int) -> float:
        """The rate at optimizer step `step` (from 0) of a stage, as a share of the peak rate."""
        warm = math.ceil(self.warmup_ratio * num_steps)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm)))

    def build(
        self, decoder: Iterable[nn.Parameter], projector: Iterable[nn.Parameter], *, num_steps: int
    ) -> dict[str, Any]:
        """A fresh optimizer and schedule in the form that Lightning takes.

        The schedule's length is given, never asked of the trainer: Lightning's own estimate sets up the
        loader before its state is restored, which loses the position in the data on resume.
        """
        rates = (self.learning_rate, self.projector_learning_rate)
        groups = [
            {"params": list(parameters), "lr": self.learning_rate if rate is None else rate, "name": name}
            for name, parameters, rate in zip(
                ("decoder", "projector"), (decoder, projector), rates, strict=True
            )
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=self.weight_decay, betas=self.betas
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step, num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
