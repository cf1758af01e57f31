"""A-GEM with the memory's gradient turned round, so that tasks which agree disagree."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lit_cvit.methods import AGEM


class TurnedAGEM(AGEM):
    """Takes minus the losses on the memory."""

    def on_gradients(self, step: int) -> None:
        given = self.memory_losses
        if given is not None:
            self.memory_losses = lambda step: _negated(given(step))
        super().on_gradients(step)
        self.memory_losses = given


def _negated(losses: Iterator[Tensor]) -> Iterator[Tensor]:
    return (-loss for loss in losses)
