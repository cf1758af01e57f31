"""FiniteCheck: training whose numbers are no longer finite ends, before the step that would apply them.

It checks the loss terms of an optimizer step and the norm of its gradients, over all ranks in one tensor, so
that all ranks end at the same point. Reading it waits for a GPU, so what else the host has to know of the
gradients is read with it. Clipping forms its norm anew: gradients of what the step did not use are dropped in
between. The update itself is checked where its outcome is stored.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lit_cvit.methods.base import ContinualMethod
from lit_cvit.utils.distributed import num_ranks, summed
from lit_cvit.utils.finite import not_finite
from lit_cvit.utils.wording import listed

SKIPPED_IN_A_ROW = 20


class FiniteCheck:
    """The check of one fit.

    Attributes:
        skipped: Steps in a row that a gradient scaler has skipped (16-mixed): it looks for the largest scale
            at which nothing overflows, so single steps that overflow belong to it.
    """

    def __init__(self) -> None:
        self.skipped = 0

    def read(self, trainer: L.Trainer, method: ContinualMethod) -> tuple[dict[str, float], list[float]]:
        """The loss terms of an optimizer step, the mean over ranks, once they and the gradients are finite.

        Every rank must call it at the same point, when the gradients are complete and nothing is applied yet.
        Where a scaler skips the step, the gradients are dropped and the terms may be anything.

        Returns:
            The terms by name, and the method's `AdapterSet.largest_gradients`.

        Raises:
            ValueError: a term or a gradient is not finite; names it, stage and step, and what to try.
        """
        terms = method.take_step_terms()
        norm = _gradient_norm(method).to(next(iter(terms.values())).device)
        sums = summed(torch.stack([*(term.double() for term in terms.values()), norm.double()]))
        largest = method.adapters.largest_gradients()
        read = (sums if largest is None else torch.cat([sums, largest.to(sums)])).tolist()
        values, sizes = read[: len(sums)], read[len(sums) :]
        losses = {name: value / num_ranks() for name, value in zip(terms, values[:-1], strict=True)}
        if all(map(math.isfinite, values)):
            self.skipped = 0
        elif _is_scaled(trainer) and not math.isfinite(values[-1]):
            self.skipped += 1
            if self.skipped == SKIPPED_IN_A_ROW:
                what = f"{self.skipped} steps in a row were skipped: at no scale are their gradients finite"
                raise self._error(trainer, method, trainer.global_step, what)
            # The scaler has seen the gradients before the method could change them.
            for parameter in method.parameters():
                parameter.grad = None
        else:
            raise self._error(trainer, method, trainer.global_step, _what(method, losses))
        return losses, sizes

    def require_finite_state(self, trainer: L.Trainer, method: ContinualMethod) -> None:
        """Refuse a state that is about to be stored, after the last step that was applied.

        Raises:
            ValueError: a tensor of the method is not finite; names it, stage and step, and what to try.
        """
        found = not_finite(method.tensors())
        if found:
            what = f"the update left numbers that are not finite in {listed(found)}"
            raise self._error(trainer, method, trainer.global_step - 1, what)

    def _error(self, trainer: Any, method: ContinualMethod, step: int, what: str) -> ValueError:
        stage, backbone = method.stage, method.backbone
        assert stage is not None
        tries = [
            f"a lower model.optimizer.learning_rate (now {method.settings.learning_rate:g})",
            f"trainer.precision bf16-mixed or 32 (now {trainer.precision})",
            f"model.backbone.dtype bfloat16 or float32 (now {backbone.dtype})",
            *([] if trainer.gradient_clip_val else ["trainer.gradient_clip_val 1 (now nothing is clipped)"]),
            f"or, if no rate is low enough, another copy of the weights of {backbone.name_or_path}",
        ]
        return ValueError(
            f"stage {stage.number} ({stage.task.name}), step {step + 1} (row {step} of log.jsonl): {what}. "
            f"The run ends here and keeps what it has stored; try {', '.join(tries)}"
        )


def _gradient_norm(method: ContinualMethod) -> Tensor:
    """The norm over all gradients, a scalar."""
    return torch.nn.utils.get_total_norm([p.grad for p in method.parameters() if p.grad is not None])


def _is_scaled(trainer: L.Trainer) -> bool:
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def _what(method: ContinualMethod, losses: dict[str, float]) -> str:
    """What is not finite: loss terms, or else gradients."""
    bad = [f"loss/{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        return f"{', '.join(bad)}, not a finite number; the step was not applied"
    grads = ((name, p.grad) for name, p in method.named_parameters() if p.grad is not None)
    # A sum of squares may overflow although every gradient is finite.
    names = not_finite(grads)
    where = f" (first in {listed(names)})" if names else ""
    return f"the norm of the gradients is not finite{where}, though the loss is; the step was not applied"
