"""Blocks that a step did not route to: whether the optimizer may move them all the same.

A block with gate 0 everywhere gets a gradient of exactly zero, but AdamW would still move it by momentum and
weight decay. `unrouted: hold` keeps such a block as it is; `drift` is the optimizer's plain behaviour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lit_cvit.adapters.bank import LoRABank


def held_groups(banks: Iterable[LoRABank]) -> list[tuple[nn.Parameter, ...]]:
    """The Parameters of banks that train, as the groups that `hold_unrouted` takes.

    The A and B of every block are one group. A bank that a step may leave unused as a whole is a group with
    what its router declares, whose gradient may be zero although the bank is in use.
    """
    groups = []
    for bank in banks:
        blocks = [tuple(block.parameters()) for block in bank.lora_blocks() if block.trainable]
        groups += blocks
        if bank.router is not None and bank.may_rest:
            groups.append((*(p for block in blocks for p in block), *bank.router.held_with_bank))
    return [group for group in groups if group]


Group = Sequence[nn.Parameter]


@torch.no_grad()
def largest_gradients(groups: Iterable[Group]) -> Tensor | None:
    """The largest element of each gradient in the groups, in order, on their device; None without any.

    Not a sum of squares, which underflows to 0 for tiny gradients. The gradients must all be on one device.
    """
    grads: list[Tensor] = [p.grad for group in groups for p in group if p.grad is not None]
    return torch.stack(torch._foreach_norm(grads, math.inf)) if grads else None


def hold_unrouted(groups: Iterable[Group], largest: Sequence[float] | None = None) -> int:
    """Drop the gradients of each group of Parameters whose gradients are all exactly zero.

    Optimizers skip a Parameter without a gradient, so neither momentum nor weight decay moves it. A block is
    one group: while B = 0 the gradient of A is zero although the block is in use, and must count as used.
    Call it where the gradients of the optimizer step are complete (accumulated, averaged over ranks).

    Args:
        groups: Parameters that are held together, for example from `held_groups`.
        largest: What `largest_gradients` gives of these groups, where the host knows it; otherwise it is
            read here, which waits for a GPU.

    Returns:
        The number of groups that were held.
    """
    with_grad = [[p for p in group if p.grad is not None] for group in groups]
    with_grad = [group for group in with_grad if group]
    if not with_grad:
        return 0
    if largest is None:
        found = largest_gradients(with_grad)
        assert found is not None
        largest = found.tolist()
    flat = (parameter for group in with_grad for parameter in group)
    # NaN is not zero.
    used = {id(parameter) for parameter, size in zip(flat, largest, strict=True) if size != 0}
    unused = [group for group in with_grad if not any(id(parameter) in used for parameter in group)]
    for group in unused:
        for parameter in group:
            parameter.grad = None
    return len(unused)
