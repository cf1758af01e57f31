"""What L2 and EWC share: a quadratic penalty around the weights that a stage begins with.

From the second stage on, factor * sum_i w_i (theta_i - theta*_i)^2 is added to the loss, where theta* is what
trains as the stage found it. The term counts once per optimizer step: its gradient, 2 factor w_i (theta_i -
theta*_i), is added to that of the step when this is accumulated and averaged over ranks, so that neither
micro-batches nor ranks change it, and no graph through all parameters is ever built. It is clipped with the
rest, and goes through AdamW like the rest, as in the published implementations.

On adapters the penalty is on A and B, not on their product: a block that begins with B = 0 is free in its
first stage, and from then on both factors are held to where that stage has left them. Nothing has to be
stored of theta*, which is what the run stores of every stage; a resumed stage finds it in the stage before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.utils.parts import in_parts
from lit_cvit.utils.settings import NotNegative


class Held(NamedTuple):
    """A parameter, where the stage began, and the weight of each of its elements; None means 1."""

    parameter: nn.Parameter
    anchor: Tensor
    weight: Tensor | None


class AnchoredMethod(ContinualMethod, ABC):
    """One block per adapted layer as in SeqLoRA, held to its last weights.

    Args:
        backbone: The pre-trained model.
        strength: The penalty's lambda; 0 is SeqLoRA.
        kwargs: Settings of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("strength",)
    train_modes: ClassVar[tuple[str, ...]] = ("adapters", "full")
    # Name of the term in the log.
    term: ClassVar[str]

    def __init__(self, backbone: Backbone, strength: NotNegative, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.strength = strength
        self._held: list[Held] = []

    @property
    @abstractmethod
    def factor(self) -> float:
        """The factor before the sum."""

    def importance_of(self, name: str) -> Tensor | None:
        """The weights w of a parameter in this stage, by its canonical name; None means 1."""
        return None

    def setup(self, stage: str) -> None:
        """Take the anchors: Lightning calls it before a checkpoint inside the stage is loaded."""
        self._held = []
        if self.num_plans < 2:
            return
        for name, parameter in self.adapters.trained().items():
            weight = self.importance_of(name)
            weight = None if weight is None else weight.to(parameter.device)
            self._held.append(Held(parameter, parameter.detach().clone(), weight))

    def end_stage(self, stage: Stage) -> None:
        self._held = []

    @torch.no_grad()
    def on_gradients(self, step: int) -> None:
        if not self._held:
            return
        sums: list[Tensor] = []
        for held in in_parts(self._held):
            pull = distance = torch._foreach_sub([h.parameter for h in held], [h.anchor for h in held])
            if weights := [h.weight for h in held if h.weight is not None]:
                pull = torch._foreach_mul(distance, weights)
            # Every product is at least 0, so the sum of sizes is the sum.
            sums += torch._foreach_norm(torch._foreach_mul(distance, pull), 1)
            grads = [h.parameter.grad for h in held if h.parameter.grad is not None]
            torch._foreach_add_(grads, pull, alpha=2 * self.factor)
        self.log_step_term(self.term, self.factor * torch.stack(sums).sum())
