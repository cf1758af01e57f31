"""Tensors that hold numbers which are not finite: found by name, and refused where they would be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lit_cvit.utils.wording import listed


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor an infinity; whole numbers are finite."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
        return True
    # Ten times faster than `isfinite` on CPUs, which writes a tensor as large; 8 bits have no such function.
    low, high = torch.aminmax(tensor.detach() if tensor.element_size() > 1 else tensor.detach().float())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def not_finite(named: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of tensors that hold NaN or an infinity, in order."""
    pairs = named.items() if isinstance(named, Mapping) else named
    return [name for name, tensor in pairs if not is_finite(tensor)]


def require_finite(named: Mapping[str, Tensor], *, place: str, fix: str) -> None:
    """Refuse tensors that hold NaN or an infinity.

    Args:
        named: Tensors by name.
        place: Where they come from, for the message.
        fix: What to do about it.

    Raises:
        ValueError: there are some; names the first and how many there are.
    """
    found = not_finite(named)
    if found:
        raise ValueError(f"{place}: {listed(found, 1)} holds numbers that are not finite (NaN, inf); {fix}")
