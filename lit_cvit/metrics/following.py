"""Whether an answer keeps to the format its instruction asks for; the mean over samples feeds MIF.

MIF is the "multi-modal instruction following" metric of SMoLoRA (arXiv 2411.13949, Sec. 4). The paper does
not give the rules; these are the decisions of the authors' evaluation scripts. CVIT has no boxes: the rule
for them is this library's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from lit_cvit.metrics.boxes import MARKED, NUMBER
from lit_cvit.utils.suggest import unknown

_MAX_SHORT_WORDS = 2
_MIN_CAPTION_WORDS = 5
_BOX = re.compile(rf"\[\s*{NUMBER}(?:\s*,\s*{NUMBER}){{3}}\s*\]")
_CORNER = rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)"
_INSIDE_MARKS = re.compile(rf"{_CORNER}\s*,\s*{_CORNER}|\[?{_BOX.pattern}\]?")


def follows_letter(prediction: str, answers: Sequence[str] = ()) -> bool:
    """Exactly one letter of the alphabet, in either case, whatever the answer is."""
    return re.fullmatch("[A-Z]", prediction.strip().upper()) is not None


def follows_short(prediction: str, answers: Sequence[str]) -> bool:
    """At most two words (none counts too), or equal to a reference but for case."""
    text = prediction.strip()
    return len(text.split()) <= _MAX_SHORT_WORDS or text.lower() in (answer.lower() for answer in answers)


def follows_caption(prediction: str, answers: Sequence[str]) -> bool:
    """Ends with a full stop, and has five words or more or is part of a reference but for case."""
    text = prediction.strip()
    if not text.endswith("."):
        return False
    part = text.lower()
    return len(text.split()) >= _MIN_CAPTION_WORDS or any(part in answer.lower() for answer in answers)


def follows_box(prediction: str, answers: Sequence[str] = ()) -> bool:
    """Four numbers with commas between them in square brackets, and nothing else, whatever the box is.

    Between the marks of a box (see `read_box`) also two corners in brackets, and a list of one box.
    """
    text = prediction.strip()
    if marked := MARKED.fullmatch(text):
        return _INSIDE_MARKS.fullmatch((marked[1] or marked[2] or "").strip()) is not None
    return _BOX.fullmatch(text) is not None


FORMATS: Mapping[str, Callable[[str, Sequence[str]], bool]] = MappingProxyType(
    {"letter": follows_letter, "short": follows_short, "caption": follows_caption, "box": follows_box}
)
"""Answer format -> its rule."""


def follows(format_name: str, prediction: str, answers: Sequence[str]) -> bool:
    """Return whether a prediction keeps to a format.

    Args:
        format_name: "letter", "short", "caption" or "box".
        prediction: The raw text of the model.
        answers: The reference answers.

    Raises:
        ValueError: the format is unknown; names the nearest one and lists all.
    """
    if format_name not in FORMATS:
        raise ValueError(unknown("answer format", format_name, FORMATS))
    return FORMATS[format_name](prediction, answers)
