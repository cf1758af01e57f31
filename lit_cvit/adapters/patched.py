"""PatchedBank: a linear layer with sparse patches of its weight beside it, and one LoRA block that trains.

y = W0 x + P x + s B A x, where P is the sum of the patches. W0 is never changed, so it may be packed in 4 or
8 bits. Of a patch only the entries that are not zero are stored. A pass forms P for one layer at a time, in
the backward pass once more, and keeps nothing of it: a dense product is faster than a sparse one until far
fewer than a tenth of the entries are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cvit.adapters.bank import LoRABank, LoRABlock


class Patch(nn.Module):
    """Entries of a change of a weight, by their places in the flattened matrix; all zero until `fill`."""

    index: Tensor
    value: Tensor

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("index", torch.zeros(size, dtype=torch.int32, device=device))
        self.register_buffer("value", torch.zeros(size, device=device))

    def fill(self, change: Tensor, mask: Tensor) -> None:
        """Take the entries of `change` (out, in) at which `mask` is true, of which there are as many as here.

        Raises:
            ValueError: there are more or fewer.
        """
        index = mask.flatten().nonzero().squeeze(1)
        if index.shape != self.index.shape:
            raise ValueError(f"a patch of {self.index.numel()} entries was given {index.numel()}")
        self.index.copy_(index)
        self.value.copy_(change.flatten()[index])


class PatchedBank(LoRABank):
    """A linear layer with its newest block alone, and one patch or a patch for every block that it has had.

    Attributes:
        patch_size: Entries of the patches that are added.
        patch_each: Whether every block brings a patch, and not only the first.
        patches: The patches, the oldest first.
    """

    def __init__(self, base: nn.Linear, name: str, **kwargs: Any) -> None:
        super().__init__(base, name, **kwargs)
        self.patch_size, self.patch_each = 0, False
        self.patches = nn.ModuleList()

    def place(self, block: LoRABlock) -> None:
        """Put a new block in the place of the last one, and add the patch that it will leave."""
        self.blocks = nn.ModuleList([block])
        if self.patch_each or not self.patches:
            self.patches.append(Patch(self.patch_size, self.base.weight.device))

    def patch(self, number: int) -> Patch:
        """One patch; negative numbers count from the last."""
        found = self.patches[number]
        assert isinstance(found, Patch)
        return found

    def patch_state(self) -> dict[str, Tensor]:
        """The tensors of all patches by canonical name, sharing their memory."""
        return {f"{self.name}.patches.{key}": value for key, value in self.patches.state_dict().items()}

    def patched_change(self) -> Tensor:
        """(out, in) the sum of the patches, in float32."""
        return _dense((self.out_features, self.in_features), list(self.patches.buffers()))

    def block_change(self) -> Tensor:
        """(out, in) s B A, what the block changes the weight by."""
        block = self.block(0)
        return self.scaling * (block.B.detach() @ block.A.detach())

    def merged_change(self, gate: Tensor) -> Tensor:
        """What block and patches add, see `LoRABank.merged_change`: (out, in)."""
        return super().merged_change(gate) + self.patched_change()

    def combined(self, y: Tensor, x: Tensor) -> Tensor:
        """The base layer's output y with what patches and block add."""
        total = super().combined(y, x)
        shape = (self.out_features, self.in_features)
        # As the block does, the patches compute in float32 outside of autocast.
        product: Tensor = _Product.apply(x.to(total.dtype), shape, *self.patches.buffers())
        return total + product


class _Product(torch.autograd.Function):
    """P x for patches that do not train; what is kept for the backward pass are their entries."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int], *parts: Tensor) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(*parts)
        return F.linear(x, _dense(shape, parts).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Once: under activation checkpointing what is kept can be taken a single time.
        parts, grad = ctx.saved_tensors, grads[0]
        weight = _dense(ctx.shape, parts).to(grad.dtype)
        return (grad @ weight, None, *(None for _ in parts))


def _dense(shape: tuple[int, int], parts: Sequence[Tensor]) -> Tensor:
    """The sum of patches, given as index, value, index, value ...; none has a place twice."""
    dense = torch.zeros(shape, device=parts[0].device)
    for index, value in zip(parts[::2], parts[1::2], strict=True):
        dense.view(-1).index_add_(0, index, value)
    return dense
