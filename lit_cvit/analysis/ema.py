"""The balance weight of LCIA's moving average of parameters (arXiv 2410.10868, Sec. 4.3, App. E).

theta* <- beta theta* + (1 - beta) theta after every optimizer step, with a beta per tensor or per layer. Here
`share` is 1 - beta, the share of the new parameters. g_t is the gradient of step t, theta_t the parameter
after it, |.| the L1 norm:

* published code (JingyangQiao/CoIN, CoIN/peft/tuners/lora.py:643): 2 (1 + |g_t|) / (|theta_t - theta*| c),
  with c = |g_t - g_{t-1}|;
* paper (Eq. 45): |(theta_{t-1} - theta*) (g_t + 1)| / |(theta_t - theta*) (g_t - g_{t-1})|, products element
  by element.

Both count strictly between 0 and 1; elsewhere, and without an earlier gradient, the fallback holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def official_share(moved: Tensor, grad: Tensor, change: Tensor) -> Tensor:
    """1 - beta of the published code.

    Args:
        moved: |theta_t - theta*|, any shape.
        grad: |g_t|, of that shape.
        change: |g_t - g_{t-1}|, of that shape.
    """
    return 2 * (1 + grad) / (moved * change)


def paper_share(lag: Tensor, reach: Tensor) -> Tensor:
    """1 - beta of Eq. 45.

    Args:
        lag: |(theta_{t-1} - theta*) (g_t + 1)|, any shape.
        reach: |(theta_t - theta*) (g_t - g_{t-1})|, of that shape.
    """
    return lag / reach


def clamp_or_fallback(share: Tensor, fallback: float) -> tuple[Tensor, Tensor]:
    """Replace shares that are no weight.

    Args:
        share: 1 - beta, any shape; NaN where there is none.
        fallback: The beta to use there.

    Returns:
        1 - beta with the fallback in place, and True where the given one is used.
    """
    dynamic = (share > 0) & (share < 1)
    return torch.where(dynamic, share, 1 - fallback), dynamic


class Groups:
    """Sums of a vector's elements over groups of positions, on the vector's device and in the same order.

    Args:
        groups: Positions of each group.
        device: Where the vectors are.
    """

    def __init__(self, groups: Sequence[Sequence[int]], device: torch.device) -> None:
        widest = max(map(len, groups))
        # Places that a group does not need point behind the vector, where a zero is put.
        padded = [[*group, *[-1] * (widest - len(group))] for group in groups]
        self._positions = torch.tensor(padded, device=device)
        self.sizes = torch.tensor([len(group) for group in groups], device=device)
        members = {position: number for number, group in enumerate(groups) for position in group}
        self._group_of = torch.tensor([members[position] for position in sorted(members)], device=device)

    def sum(self, values: Tensor) -> Tensor:
        """(groups,) from (positions,)."""
        return torch.cat([values, values.new_zeros(1)])[self._positions].sum(1)

    def spread(self, values: Tensor) -> Tensor:
        """(positions,) from (groups,): to each position what its group has; every position is in a group."""
        return values[self._group_of]


def layers_of(names: Iterable[str]) -> list[list[int]]:
    """Positions of the tensors of each layer: those whose names differ in the last part alone."""
    layers: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        layers.setdefault(name.rpartition(".")[0], []).append(position)
    return list(layers.values())


@torch.no_grad()
def follow(
    averages: Sequence[Tensor], values: Sequence[Tensor], shares: Sequence[Tensor] | Sequence[float]
) -> None:
    """Move each average towards its value, in place; where both are equal, it stays bit for bit.

    Args:
        averages: theta*.
        values: theta, of the same shapes.
        shares: 1 - beta of each, single numbers; tensors in the type and on the device of the averages.
    """
    typed = [value.to(average.dtype) for average, value in zip(averages, values, strict=True)]
    weights: list[Any] = list(shares)
    torch._foreach_lerp_(list(averages), typed, weights)
