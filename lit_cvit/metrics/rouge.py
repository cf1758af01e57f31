"""ROUGE-L of captions as the COCO caption tools compute it, over PTB tokens.

ROUGE-L: Lin, ACL workshop 2004: an F-measure of the longest common subsequence. The variant of the tools:
the best precision and the best recall over the references, which need not be the same one, with beta 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.scored import check_captions

_BETA = 1.2


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the ROUGE-L of each prediction, from 0 to 1; the score of a split is their mean.

    Args:
        predictions: One caption per sample.
        references: The reference captions of each sample, at least one.

    Raises:
        ValueError: the lengths differ, or a sample has no reference.
    """
    check_captions("ROUGE-L", predictions, references)
    return [
        _f_measure(ptb_tokenize(prediction), [ptb_tokenize(caption) for caption in captions])
        for prediction, captions in zip(predictions, references, strict=True)
    ]


def _f_measure(prediction: list[str], references: list[list[str]]) -> float:
    # A reference that is all punctuation has no tokens; nothing can be common with it.
    common = [(_common(prediction, reference), len(reference)) for reference in references if reference]
    precision = max((shared for shared, _ in common), default=0) / max(len(prediction), 1)
    recall = max((shared / length for shared, length in common), default=0.0)
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for at, against in enumerate(other, start=1):
            above = row[at]
            row[at] = diagonal + 1 if word == against else max(above, row[at - 1])
            diagonal = above
    return row[-1]
