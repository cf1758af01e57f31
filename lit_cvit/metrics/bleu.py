"""BLEU of captions as the COCO caption tools compute it, over PTB tokens.

BLEU: Papineni et al., ACL 2002: the geometric mean of clipped n-gram precisions times a penalty on short
predictions. The score of a split pools the counts of all its samples. The variant of the tools: per sample
the reference whose length is closest to the prediction's counts (the shorter of two), and tiny constants keep
a precision of 0 from making the whole 0. `torchmetrics` has the same formula without these constants: there
an order without a match gives 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.scored import Scored, check_captions

_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class Bleu:
    """BLEU over n-grams of 1 to `order` tokens.

    Attributes:
        order: The longest n-gram.
    """

    order: int

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
        """Score captions, from 0 to 1 per sample.

        A split of one sample is scored like any other; the COCO tools then take the mean length of its
        references in place of the closest.

        Args:
            predictions: One caption per sample.
            references: The reference captions of each sample, at least one.

        Raises:
            ValueError: the lengths differ, or a sample has no reference.
        """
        check_captions(f"BLEU-{self.order}", predictions, references)
        tallies = [
            self._count(ptb_tokenize(prediction), [ptb_tokenize(caption) for caption in captions])
            for prediction, captions in zip(predictions, references, strict=True)
        ]
        samples = [tally.value() for tally in tallies]
        return Scored(samples, 100 * _pooled(tallies).value() if tallies else math.nan)

    def _count(self, prediction: list[str], references: list[list[str]]) -> _Tally:
        matched, predicted = [], []
        for size in range(1, self.order + 1):
            grams = _grams(prediction, size)
            most: Counter[tuple[str, ...]] = Counter()
            for reference in references:
                most |= _grams(reference, size)
            matched.append((grams & most).total())
            predicted.append(grams.total())
        length = len(prediction)
        closest = min((len(reference) for reference in references), key=lambda n: (abs(n - length), n))
        return _Tally(tuple(matched), tuple(predicted), length, closest)


@dataclass(frozen=True)
class _Tally:
    """Counts of one sample or of many.

    Attributes:
        matched: Per order, the n-grams of the prediction that a reference has too.
        predicted: Per order, the n-grams of the prediction.
        length: Tokens of the prediction.
        closest: Tokens of the reference closest in length.
    """

    matched: tuple[int, ...]
    predicted: tuple[int, ...]
    length: int
    closest: int

    def value(self) -> float:
        precisions = [(m + _TINY) / (s + _SMALL) for m, s in zip(self.matched, self.predicted, strict=True)]
        ratio = (self.length + _TINY) / (self.closest + _SMALL)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        return math.prod(precisions) ** (1 / len(precisions)) * penalty


def _pooled(tallies: Sequence[_Tally]) -> _Tally:
    return _Tally(
        tuple(map(sum, zip(*(each.matched for each in tallies), strict=True))),
        tuple(map(sum, zip(*(each.predicted for each in tallies), strict=True))),
        sum(each.length for each in tallies),
        sum(each.closest for each in tallies),
    )


def _grams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1))
