"""Lists in parts, for operations on many tensors at once whose temporary copies must not be of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def in_parts(items: list[T], size: int = 64) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
