"""Lists in parts: an operation on many tensors at once makes temporary copies of one part alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def in_parts(items: list[T], size: int = 64) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
