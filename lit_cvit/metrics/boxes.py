"""Reading a bounding box out of an answer, and how much two boxes overlap."""

from __future__ import annotations

import math
import re
from fractions import Fraction

Box = tuple[Fraction, Fraction, Fraction, Fraction]
"""Left, top, right and bottom edge."""

NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
# Neither the end of a word nor a part of a longer number ("1e-1", "1.2.3").
_ALONE = re.compile(rf"(?<![\w.])(?<!\w-){NUMBER}(?!\w|\.\d)")
# What Qwen-VL and InternVL write around a box; before it there may be the object's name.
MARKED = re.compile(r"<\|box_start\|>(.*?)<\|box_end\|>|<box>(.*?)</box>", re.DOTALL)
_NUM_EDGES = 4
# Longer ones are no edges of a box, and Python refuses those of thousands of digits.
_MAX_DIGITS = 100


def read_box(text: str) -> Box | None:
    """Return the box that an answer states, or None unless it has exactly four numbers.

    Whatever stands around and between the numbers does not matter: brackets of any kind, none, words. Where
    boxes are marked, by `<|box_start|>` and `<|box_end|>` or `<box>` and `</box>`, only the inside counts.
    """
    if marked := [one or other for one, other in MARKED.findall(text)]:
        text = " ".join(marked)
    numbers = _ALONE.findall(text)
    if any(len(number) > _MAX_DIGITS for number in numbers):
        return None
    return _box([Fraction(number) for number in numbers])


def official_read_box(text: str) -> Box | None:
    """Return the box as the Grounding script of CoIN, LCIA and HiDe reads it, or None.

    Square brackets go first, and then the first and the last character of what is left: of
    "[0.41, 0.45, 0.63, 0.62]" the last edge is 0.6, and 1.0 in the first place is 0.
    """
    parts = text.replace("[", "").replace("]", "")[1:-1].split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    return _box([Fraction(number) for number in numbers]) if all(map(math.isfinite, numbers)) else None


def iou(one: Box, other: Box) -> Fraction:
    """Return the area that two boxes share over the area that either covers, exactly.

    A box whose edges are the wrong way round, or that has no area, shares nothing.
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return Fraction(0)
    shared = width * height
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> Fraction:
    return (box[2] - box[0]) * (box[3] - box[1])


def _box(numbers: list[Fraction]) -> Box | None:
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == _NUM_EDGES else None
