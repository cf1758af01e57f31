"""C-LoRA: a new LoRA block for every task, held off the weights that the frozen ones before it have changed.

Source: Smith et al., "Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA"
(arXiv 2304.06027), which SMoLoRA compares with. No code is published. While task t trains, every adapted
layer adds to the loss

    lambda * || (sum_{i<t} D_i) (x) D_t ||^2,   D_i = s B_i A_i,

with (x) the product of elements, so that an entry of the weight is the more expensive to change the more it
has been changed. Old blocks are frozen, and answers come from the sum of all.

Readings: D is the change that a layer really gets, its factor s included (the paper has s = 1). SMoLoRA gives
no lambda, and the paper's 1e8 is for a few projections of an image generator; the default is ours.

What is stored are the factors. The products are formed in slices of rows, in the backward pass once more, so
not even one layer's is there as a whole, and only with the last micro-batch of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_cvit.adapters import LoRABank
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.utils.settings import NotNegative

# Elements of a product that are formed at a time: 64 MiB in float32.
SLICE = 2**24


class CLoRA(ContinualMethod):
    """A block per task; the newest trains under a penalty where the frozen ones have changed the weights.

    Args:
        backbone: The pre-trained model.
        weight: Factor of the penalty (lambda).
        kwargs: Settings of every method; `rank` is that of one task's block.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, backbone: Backbone, weight: NotNegative = 1.0, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.weight = weight

    def plan_stage(self, stage: Stage) -> Plan:
        return {"new_blocks": [self.rank], "freeze_blocks": True, "new_projector": self.is_new}

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        if not self.weight or self.num_plans < 2 or not self.banks:
            return {}
        return {"interference": self.once_per_step(batch, self._penalty)}

    def _penalty(self) -> Tensor:
        return self.weight * torch.stack([interference(bank) for bank in self.banks.values()]).sum()


def interference(bank: LoRABank) -> Tensor:
    """|| (sum of the older blocks' changes) (x) the newest one's ||^2 of a layer; a number."""
    *older, newest = bank.lora_blocks()
    down = torch.cat([block.A for block in older])
    up = torch.cat([block.B for block in older], dim=1)
    factors: Tensor = _Interference.apply(newest.A, newest.B, down, up)
    return bank.scaling**4 * factors


class _Interference(torch.autograd.Function):
    """|| (B' A') (x) (B A) ||^2, whose products live for a slice of rows at a time."""

    @staticmethod
    def forward(ctx: Any, down: Tensor, up: Tensor, old_down: Tensor, old_up: Tensor) -> Tensor:
        ctx.save_for_backward(down, up, old_down, old_up)
        sums = [(old_up[rows] @ old_down).mul_(up[rows] @ down).square_().sum() for rows in _slices(up, down)]
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        down, up, old_down, old_up = ctx.saved_tensors
        down_grad, up_grad = torch.zeros_like(down), torch.empty_like(up)
        for rows in _slices(up, down):
            # The slope in B A: 2 (B' A')^2 (x) (B A).
            slope = (old_up[rows] @ old_down).square_().mul_(up[rows] @ down).mul_(2 * grads[0])
            up_grad[rows] = slope @ down.T
            down_grad += up[rows].T @ slope
        return down_grad, up_grad, None, None


def _slices(up: Tensor, down: Tensor) -> Iterator[slice]:
    """Slices of the rows of B A, each of at most `SLICE` elements or one row."""
    height = max(1, SLICE // down.shape[1])
    return (slice(start, start + height) for start in range(0, up.shape[0], height))
