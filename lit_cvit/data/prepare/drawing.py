"""Draws from the rows of a split where a benchmark has fewer of them than the data set.

The authors' draws are not published. Ours goes by a hash of each row's id, so it is the same wherever it is
made, and does not depend on the order of the raw file.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lit_cvit.data.prepare.base import Split, chance


class Line(NamedTuple):
    """A row as it is written, with what the draws look at."""

    id: str
    image: str
    answer: str
    text: bytes


_Ranked = tuple[float, int, Line]


def drawn(lines: Iterator[Line], split: Split, name: str) -> Iterator[Line]:
    """Give the lines to keep, in their order; what is not drawn from is passed through.

    Args:
        lines: All lines.
        split: Says how many to keep: of each image, of each class, and in all.
        name: Name of task and split: another one draws other lines.
    """
    if not split.per_image and not split.per_class and not split.draw:
        return lines
    ranked: Iterable[_Ranked] = (
        (chance(f"{name}/{line.id}"), place, line) for place, line in enumerate(lines)
    )
    if split.per_image:
        ranked = _of_each(ranked, split.per_image, lambda line: line.image)
    if split.per_class:
        ranked = _of_each(ranked, split.per_class, lambda line: line.answer)
    chosen = heapq.nsmallest(split.draw, ranked) if split.draw else ranked
    return (line for _, _, line in sorted(chosen, key=lambda row: row[1]))


def _of_each(ranked: Iterable[_Ranked], number: int, group: Callable[[Line], str]) -> Iterator[_Ranked]:
    best: dict[str, list[_Ranked]] = {}
    for row in ranked:
        lowest = best.setdefault(group(row[2]), [])
        bisect.insort(lowest, row)
        del lowest[number:]
    return itertools.chain.from_iterable(best.values())


def draw_in_words(split: Split, limit: int) -> str:
    """Say how lines are chosen; empty when all are taken."""
    if limit:
        return f"the first {limit}, for a trial"
    parts = [
        f"{number} {of}"
        for number, of in (
            (split.per_image, "of each image"),
            (split.per_class, "of each class"),
            (split.draw, "in all"),
        )
        if number
    ]
    return f"{', '.join(parts)}, by a hash of the id, as theirs is not published" if parts else ""
