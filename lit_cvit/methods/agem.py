"""AGEM: what trains goes on through all tasks, never against the gradient of a memory of the earlier ones.

Source: Efficient Lifelong Learning with A-GEM (Chaudhry et al., ICLR 2019, arXiv 1812.00420, Sec. 4, Eq. 11);
a baseline of CITB and of LCIA's Table 8. Where the gradient g of an optimizer step and the gradient r of the
loss on rows of earlier tasks disagree, g . r < 0, the step is taken with

    g - (g . r / r . r) r.

g is the gradient of the whole step: of all its micro-batches and terms, averaged over ranks, not yet
clipped. r is that of the mean token loss of the step's memory rows at the same parameters, over all ranks.
The products run over all that trains, as one vector. The log has 1 or 0 for each step that was changed or not
(`agem/conflict`). A step costs a forward and a backward pass on the memory's rows besides its own, and one
gradient more of all that trains.

Readings and deviations:

* The memory is that of `callbacks.Replay(form: gradient)`, which also says how many rows a task leaves and
  how many go with a step. Which rows these are depends on the seed and on the step's place in the stream
  alone: the memory is passed through again and again, in new orders. The paper draws each time.
* CITB keeps whole training batches (its "10" and "50" are 11 and 51 of them); here a memory has rows.
* Under 16-mixed precision the loss on the memory is not scaled, so small gradients of it may round to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_cvit.backbones.base import Backbone
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.utils.distributed import summed


class AGEM(ContinualMethod):
    """One block per adapted layer, or with `train: full` all weights; needs `Replay` with `form: gradient`.

    Args:
        backbone: The pre-trained model.
        kwargs: Settings of every method.

    Attributes:
        memory_losses: The losses on the rows of the memory that go with an optimizer step of the stream, one
            for each of this rank's micro-batches of them; their sum over micro-batches and ranks is the mean
            token loss. `Replay` gives it, from the second stage on.
    """

    train_modes: ClassVar[tuple[str, ...]] = ("adapters", "full")

    def __init__(self, backbone: Backbone, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.memory_losses: Callable[[int], Iterator[Tensor]] | None = None

    @property
    def access(self) -> DataAccess:
        """Samples of earlier tasks."""
        return DataAccess(old_data=True)

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """The memory."""
        return ("Replay",)

    @property
    def training_copies(self) -> int:
        """The gradient of the memory."""
        return 1

    def on_gradients(self, step: int) -> None:
        if self.memory_losses is None:
            return
        trained = [parameter for parameter in self.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        conflict = project(gradients, self._memory_gradients(self.memory_losses(step), trained))
        self.log("agem/conflict", conflict.float(), on_step=True, on_epoch=False)

    def _memory_gradients(self, losses: Iterator[Tensor], trained: Sequence[nn.Parameter]) -> list[Tensor]:
        total = [torch.zeros_like(parameter) for parameter in trained]
        with torch.enable_grad():
            for loss in losses:
                # Not backward(), which would add to the step's gradients and wake DDP.
                found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
                torch._foreach_add_(total, found)
        return [summed(each) for each in total]


@torch.no_grad()
def project(gradients: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
    """Take the part against the memory's gradient out of a gradient, in place (Eq. 11).

    Args:
        gradients: The gradient of every parameter; what is left of them is written into them.
        memory: The gradient of the loss on the memory, of the same shapes; changed as well.

    Returns:
        (), whether the two disagreed.
    """
    products = zip(gradients, memory, strict=True)
    along = torch.stack([torch.dot(one.flatten(), other.flatten()) for one, other in products]).sum()
    size = torch.stack(torch._foreach_norm(list(memory))).square().sum()
    conflict = along < 0
    # Where nothing disagrees it is subtracted 0 times, so no value has to leave the device.
    torch._foreach_mul_(list(memory), torch.where(conflict, along / size, 0.0))
    torch._foreach_sub_(list(gradients), list(memory))
    return conflict
