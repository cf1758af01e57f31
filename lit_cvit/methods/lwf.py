"""LwF: one LoRA trained on through all tasks, held to what it answered before the stage (distillation).

Source: Learning without Forgetting (Li and Hoiem, arXiv 1606.09282, Eq. 2-3); the factor T^2 is that of
Hinton et al. (arXiv 1503.02531). HiDe, ProgLoRA and LCIA have it as a baseline and state no setting. From the
second stage on the loss has, beside the language-model loss, the mean over answer tokens of

    distill_weight * T^2 * KL(teacher^(1/T) || student^(1/T)),

where p^(1/T) is the softmax of the logits divided by T. The data are those of the stage alone, and the
teacher is the method as the stage before left it. It costs one forward pass without gradients per
micro-batch, and one copy of what trains: the backbone is shared (`FrozenCopy`).

Readings and deviations:

* The paper distils old heads of a classifier; a language model has one head, so every answer token's
  distribution over the whole vocabulary is held, under the true answer before it.
* The paper writes the cross entropy of the two; the KL divergence has the same gradient, and is 0 where
  nothing has changed.
* Some implementations leave out T^2 (avalanche): at T=2, a factor of 1 there is 0.25 here.
* Nothing is stored for it: the teacher is what the stage before has stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lit_cvit.adapters import FrozenCopy
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.utils.settings import NotNegative, Positive

_POSITIONS = 64


class LwF(ContinualMethod):
    """One block per adapted layer, trained stage after stage under the predictions of the stage before.

    Args:
        backbone: The pre-trained model.
        distill_weight: Factor of the term (lambda); 0 leaves it out, which is `SeqLoRA`.
        distill_temperature: T, by which the logits of both are divided.
        kwargs: Settings of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("distill_weight", "distill_temperature")

    def __init__(
        self,
        backbone: Backbone,
        distill_weight: NotNegative = 1.0,
        distill_temperature: Positive = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.distill_weight, self.distill_temperature = distill_weight, distill_temperature
        self._teacher: FrozenCopy | None = None

    @property
    def training_copies(self) -> int:
        """The teacher."""
        return 1 if self.distill_weight else 0

    def begin_stage(self, stage: Stage, planned: Plan | None = None) -> Plan:
        """Copy the teacher: here, on resume too, the method is as the stage before has left it."""
        self._teacher = None if self.is_new or not self.distill_weight else FrozenCopy(self)
        return super().begin_stage(stage, planned)

    def end_stage(self, stage: Stage) -> None:
        self._teacher = None

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        if self._teacher is None:
            return {}
        with torch.no_grad(), self._teacher.in_place():
            taught = self.backbone.answer_states(batch).states
        apart = distillation(outputs.states, taught, self.backbone.head, self.distill_temperature)
        return {"lwf": self.share_of_step(apart, batch.step_tokens, weight=self.distill_weight)}


def distillation(
    states: Tensor, taught: Tensor, head: Callable[[Tensor], Tensor], temperature: float
) -> Tensor:
    """T^2 times the sum over N positions of KL(teacher || student), each softened by T; in float32.

    Logits exist for 64 positions at a time, in the backward pass as well, which computes them again.

    Args:
        states: (N, d) hidden states of the student.
        taught: (N, d) those of the teacher.
        head: Makes logits (n, V) of hidden states (n, d).
        temperature: T.

    Returns:
        ().
    """
    total = torch.zeros((), device=states.device)
    for own, other in zip(states.split(_POSITIONS), taught.split(_POSITIONS), strict=True):
        part = checkpoint(
            _divergence, own, other, head, temperature, use_reentrant=False, preserve_rng_state=False
        )
        total = total + part
    return temperature**2 * total


def _divergence(
    states: Tensor, taught: Tensor, head: Callable[[Tensor], Tensor], temperature: float
) -> Tensor:
    with torch.no_grad():
        target = (head(taught).float() / temperature).log_softmax(-1)
    log_student = (head(states).float() / temperature).log_softmax(-1)
    return functional.kl_div(log_student, target, reduction="sum", log_target=True)
