"""Products with the blocks of a bank side by side, which keep no copy of them for the backward pass.

A_cat and B_cat (see `kernels`) are joined for a product and dropped after it: kept, they would be a copy of
all blocks for every layer, and autograd would form a gradient for blocks that are frozen. Blocks that train
stand side by side in every method, the frozen ones before them, so their span is one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def project_down(x: Tensor, downs: Sequence[Tensor]) -> Tensor:
    """A_cat x, under autocast in its type.

    Args:
        x: (..., in), outside of autocast of the blocks' type.
        downs: A_i (r_i, in) of each block.

    Returns:
        (..., R).
    """
    if len(downs) == 1:
        return F.linear(x, downs[0])
    if not torch.is_grad_enabled():
        return F.linear(x, torch.cat(list(downs)))
    product: Tensor = _Down.apply(x, _type_of(x), *downs)
    return product


def add_up(y: Tensor, weighted: Tensor, ups: Sequence[Tensor], *, scaling: float) -> Tensor:
    """y + s * B_cat weighted, in one pass over the outputs where the types allow it.

    Args:
        y: (..., out).
        weighted: (..., R), the gated rank coordinates.
        ups: B_i (out, r_i) of each block.
        scaling: The factor s.

    Returns:
        (..., out) in the wider type of y and the product.
    """
    kind = y.device.type
    # Autocast casts all of a sum to its type, which would round a wider y.
    autocast = torch.is_autocast_enabled(kind)
    fits = (
        y.dtype == torch.get_autocast_dtype(kind) if autocast else y.dtype == weighted.dtype == ups[0].dtype
    )
    if not fits:
        return y + F.linear(weighted * scaling, side_by_side(ups, dim=1))
    flat = y.flatten(0, -2), weighted.flatten(0, -2)
    if len(ups) == 1 or not torch.is_grad_enabled():
        total = torch.addmm(*flat, side_by_side(ups, dim=1).T, alpha=scaling)
    else:
        total = _AddUp.apply(*flat, scaling, *ups)
    return total.view(y.shape)


def side_by_side(parts: Sequence[Tensor], *, dim: int) -> Tensor:
    """The tensors joined along a dimension; a single one as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _type_of(x: Tensor) -> torch.dtype:
    """The type that a product of x runs in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _span(needed: Sequence[bool], sizes: Sequence[int]) -> slice:
    """The rank coordinates from the first to the last block that needs a gradient."""
    numbers = [number for number, needs in enumerate(needed) if needs]
    if not numbers:
        return slice(0, 0)
    return slice(sum(sizes[: numbers[0]]), sum(sizes[: numbers[-1] + 1]))


def _parts(grad: Tensor, needed: Sequence[bool], sizes: Sequence[int], dim: int) -> list[Tensor | None]:
    """The gradient of a span, by block."""
    found: list[Tensor | None] = [None] * len(sizes)
    numbers = [number for number, needs in enumerate(needed) if needs]
    if numbers:
        first, last = numbers[0], numbers[-1] + 1
        for number, part in zip(range(first, last), grad.split(sizes[first:last], dim), strict=True):
            found[number] = part if needed[number] else None
    return found


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, *downs: Tensor) -> Tensor:
        ctx.given, x = x.dtype, x.to(dtype)
        ctx.save_for_backward(x, *downs)
        return F.linear(x, torch.cat(downs).to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].flatten(0, -2)
        x, *downs = ctx.saved_tensors
        needed, sizes = ctx.needs_input_grad[2:], [len(down) for down in downs]
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (grad @ torch.cat(downs).to(grad.dtype)).view(x.shape).to(ctx.given)
        own = grad[:, _span(needed, sizes)].T @ x.flatten(0, -2)
        return to_x, None, *_parts(own.to(downs[0].dtype), needed, sizes, 0)


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weighted: Tensor, scaling: float, *ups: Tensor) -> Tensor:
        weighted, ctx.given, ctx.scaling = weighted.to(y.dtype), weighted.dtype, scaling
        ctx.save_for_backward(weighted, *ups)
        return torch.addmm(y, weighted, torch.cat(ups, dim=1).to(y.dtype).T, alpha=scaling)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        weighted, *ups = ctx.saved_tensors
        needed, sizes = ctx.needs_input_grad[3:], [up.shape[1] for up in ups]
        to_weighted = None
        if ctx.needs_input_grad[1]:
            to_weighted = (grad @ torch.cat(ups, dim=1).to(grad.dtype)).mul_(ctx.scaling).to(ctx.given)
        own = (grad.T @ weighted[:, _span(needed, sizes)]).mul_(ctx.scaling)
        return grad, to_weighted, None, *_parts(own.to(ups[0].dtype), needed, sizes, 1)
