"""Methods with one defect each, which the kit must find."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_cvit.backbones import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import SeqLoRA
from lit_cvit.methods.base import Plan


class ReadsTask(SeqLoRA):
    """Reads the task without declaring it."""

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        assert [sample.task for sample in batch.samples]
        return {}


class Forgetful(SeqLoRA):
    """Scales its adapter by a number that it does not save."""

    strength = 1.0

    def end_stage(self, stage: Stage) -> None:
        self.strength += 1.0

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        return {"gate": torch.full((1,), self.strength)}


class IdleTerm(SeqLoRA):
    """Adds a loss term that moves nothing."""

    def loss_terms(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        return {"idle": torch.ones(())}


class Unreduced(SeqLoRA):
    """Keeps a statistic of this rank's batches alone."""

    def __init__(self, backbone: Backbone, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.lengths = torch.zeros(1)

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if batch.answer_mask is not None:
            self.lengths += float(batch.answer_mask.sum())
        return {}

    def extra_tensors(self) -> dict[str, Tensor]:
        return {"lengths": self.lengths}


class Restless(SeqLoRA):
    """Starts from other weights every time."""

    def apply_plan(self, plan: Plan) -> None:
        generator = torch.Generator()
        generator.seed()
        with torch.no_grad():
            for bank in self.banks.values():
                bank.block(0).A.add_(torch.randn(bank.block(0).A.shape, generator=generator))


class DeadBlock(SeqLoRA):
    """Multiplies its adapters by zero, so nothing trains."""

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        return {"gate": torch.full((1,), 1e-38) * 1e-38}


class CountsPadding(SeqLoRA):
    """Its gate depends on the width of the padded batch."""

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        return {"gate": torch.tensor([batch.prompt_mask.shape[1] / 10.0])}
