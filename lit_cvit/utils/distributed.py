"""What the ranks of a run tell each other; in a single process every function hands back what it got."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def num_ranks() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if _connected() else 1


def rank() -> int:
    """This process among them, from 0."""
    return distributed.get_rank() if _connected() else 0


def from_first(value: T) -> T:
    """Rank 0's value, on every rank; it must pickle."""
    if num_ranks() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T) -> list[T]:
    """The values of all ranks by rank, on every rank; they must pickle."""
    if num_ranks() == 1:
        return [value]
    values: list[T] = [value] * num_ranks()
    distributed.all_gather_object(values, value)
    return values


def summed(tensor: Tensor) -> Tensor:
    """The sum over ranks of a tensor of equal shape, on every rank; for sums and counts, never means."""
    if num_ranks() == 1:
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank."""
    if num_ranks() == 1:
        return flag
    return bool(summed(torch.tensor([float(flag)], device=device)).item())


def _connected() -> bool:
    return distributed.is_available() and distributed.is_initialized()
