"""DoRABank: weight-decomposed LoRA on one linear layer, W' = m (W0 + s B A) / |W0 + s B A|.

Source: DoRA (Liu et al., arXiv 2402.09353). m has a number for every output of the layer, the norm is that of
an output's weights (a row of W here, a column in the paper's notation). As in Sec. 4.3 the norm is a constant
in the backward pass. It changes with A and B alone, so it is formed once in a forward pass, never for a
sample, and during generation once in all.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_cvit.adapters.bank import LoRABank, LoRABlock
from lit_cvit.adapters.kernels import row_norms
from lit_cvit.adapters.routing import active


class DoRABlock(LoRABlock):
    """A LoRA pair and the magnitude m (out,) of the outputs."""

    m: Tensor
    parts: ClassVar[tuple[str, ...]] = ("A", "B", "m")


class DoRABank(LoRABank):
    """A linear layer with one block, whose direction and length train apart, for all samples alike."""

    _held_scale: Tensor | None = None

    def make_block(self, down: Tensor, up: Tensor, *, trainable: bool) -> LoRABlock:
        """A block whose magnitude is the norm that the layer has with it, so that it changes nothing yet.

        Raises:
            ValueError: the bank has a block.
        """
        if self.num_blocks:
            raise ValueError(f"bank {self.name!r} has a block; the norm of several is not defined")
        norms = self._norms(down, up).to(down.dtype)
        return DoRABlock(down, up, norms, trainable=trainable)

    @torch.no_grad()
    def _norms(self, down: Tensor, up: Tensor) -> Tensor:
        return row_norms(unpacked_weight(self.base), down, up, scaling=self.scaling)

    def _scale(self) -> Tensor:
        """(out,) m over the norm."""
        if self._held_scale is not None:
            return self._held_scale
        block = self.block(0)
        assert isinstance(block, DoRABlock)
        with torch.autocast(block.m.device.type, enabled=False):
            return block.m / self._norms(block.A, block.B)

    @property
    def merges(self) -> bool:
        """False: what the block does depends on the base layer's weight, which would be read merged."""
        return False

    def hold(self) -> None:
        """See `LoRABank.hold`."""
        super().hold()
        self._held_scale = self._scale().detach() if self.num_blocks else None

    def release(self) -> None:
        """See `LoRABank.release`."""
        super().release()
        self._held_scale = None

    def combined(self, y: Tensor, x: Tensor) -> Tensor:
        """The base layer's output y with what the block adds, scaled; the bias stays as it is.

        Raises:
            ValueError: the context gives the bank a gate.
        """
        context = active()
        if context is not None and context.gate_for(self.name) is not None:
            raise ValueError(f"bank {self.name!r} has one norm for all samples and takes no gate")
        bias = self.bias
        product = self._scale() * super().combined(y if bias is None else y - bias, x)
        return product if bias is None else product + bias


def unpacked_weight(layer: nn.Linear) -> Tensor:
    """The weight (out, in) that a layer multiplies by; bitsandbytes unpacks a packed one, into a copy."""
    packed: Any = layer
    kind = type(layer.weight).__name__
    if kind == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(packed.weight.data, packed.weight.quant_state)
    if kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        # The first forward pass moves the scales of the rows from the weight to the layer's state.
        scales = packed.state.SCB if packed.weight.SCB is None else packed.weight.SCB
        return int8_vectorwise_dequant(packed.weight.data, scales)
    return layer.weight
