"""O-LoRA: a new LoRA block for every task, held orthogonal to the frozen ones before it, all of them summed.

Source: Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning" (arXiv 2310.14152;
code: cmnfriend/O-LoRA). While task t trains, its loss has lambda_1 * sum_{i<t} sum |A_t A_i^T| over all
adapted layers, as in the code (the paper writes squared entries), and lambda_2 times the norms of the new A
and B, which the code adds where a long stream needs it. Answers come from the sum of all blocks.

MCITlib, by the authors of HiDe-LLaVA, has another form of it (Ghy0501/MCITlib, OLoRA/):

* The block of a task is trained alone, without those before it: `trained_with: own`. The original trains it
  in the sum that answers (`sum`, the default).
* The penalty there also moves the old A, which are neither frozen nor detached. Here old blocks are buffers,
  as the paper has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_cvit.adapters import LoRABlock
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.utils.settings import NotNegative


class OLoRA(ContinualMethod):
    """A block per task; the newest trains under a penalty on its overlap with the frozen ones.

    Args:
        backbone: The pre-trained model.
        weight: Factor of the overlap (lambda_1): 0.5 in the paper's standard streams, 0.05 in MCITlib.
        norm_weight: Factor of the norms of the new block's A and B (lambda_2).
        trained_with: A training sample goes through the `sum` of all blocks, or the task's `own` alone.
        kwargs: Settings of every method; `rank` is that of one task's block.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("weight", "norm_weight", "trained_with")

    def __init__(
        self,
        backbone: Backbone,
        weight: NotNegative = 0.5,
        norm_weight: NotNegative = 0.0,
        trained_with: Literal["sum", "own"] = "sum",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.weight, self.norm_weight, self.trained_with = weight, norm_weight, trained_with

    def plan_stage(self, stage: Stage) -> Plan:
        return {"new_blocks": [self.rank], "freeze_blocks": True, "new_projector": self.is_new}

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        trains = self.training and batch.answer_mask is not None
        if not trains or self.trained_with == "sum" or not self.num_plans:
            return {}
        gate = torch.zeros(self.num_plans)
        gate[-1] = 1
        return {"gate": gate}

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        layers = [bank.lora_blocks() for bank in self.banks.values()]
        terms = {}
        if self.weight and self.num_plans > 1:
            terms["overlap"] = self.once_per_step(batch, lambda: self.weight * overlap(layers))
        if self.norm_weight:
            terms["norm"] = self.once_per_step(batch, lambda: self.norm_weight * norms(layers))
        return terms


def overlap(layers: Iterable[Sequence[LoRABlock]]) -> Tensor:
    """Sum of |A_t A_i^T| over all entries, all blocks i before the newest, t, and all layers; a number."""
    sums = []
    for *older, newest in layers:
        sums.append((torch.cat([block.A for block in older]) @ newest.A.T).abs().sum())
    return torch.stack(sums).sum()


def norms(layers: Iterable[Sequence[LoRABlock]]) -> Tensor:
    """Sum of the Frobenius norms of the newest block's A and B over all layers; a number."""
    return torch.stack([part.norm() for *_, newest in layers for part in (newest.A, newest.B)]).sum()
