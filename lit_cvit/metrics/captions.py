"""Caption metrics: CIDEr-D over PTB tokens.

CIDEr: arXiv 1411.5726 (Eq. 2, 4 and the CIDEr-D of Sec. 5), in the variant that the COCO caption tools
compute: natural logarithm of document frequencies counted over the references of the split, clipped counts,
a Gaussian penalty on the difference of lengths, and a factor of 10.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.scored import check_captions

_MAX_GRAM = 4
_SIGMA = 6.0

_Gram = tuple[str, ...]
_Counts = list[Counter[_Gram]]
# The weights of n-grams, and the length of that vector.
_Weighed = tuple[dict[_Gram, float], float]


def cider(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: Callable[[str], list[str]] = ptb_tokenize,
) -> list[float]:
    """Return the CIDEr-D of each prediction, from 0 to 10; the score of a split is their mean.

    The usual "CIDEr in percent" is 100 times that mean, so it exceeds 100 for good captions. A split of one
    sample scores 0, because every n-gram then occurs in every document.

    Args:
        predictions: One caption per sample.
        references: The reference captions of each sample, at least one.
        tokenize: Caption to tokens.

    Raises:
        ValueError: the lengths differ, or a sample has no reference.
    """
    check_captions("CIDEr", predictions, references)
    counted = [[_count(tokenize(caption)) for caption in captions] for captions in references]
    weigh = _Weights(counted)
    return [
        weigh.similarity(_count(tokenize(prediction)), captions)
        for prediction, captions in zip(predictions, counted, strict=True)
    ]


def raw_cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of SMoLoRA's TextCaps script: white space separates tokens, case counts.

    Arguments and errors as in `cider`.
    """
    return cider(predictions, references, tokenize=str.split)


def best_reference_cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the score that SMoLoRA's Flickr30k script gives to each prediction; far above ordinary CIDEr.

    Per sample, the references are a corpus of their own and the one closest to the prediction is kept; then
    each kept reference is scored against its prediction as if that were the reference (the script swaps the
    two), over the whole split. Tokens as in `raw_cider`.

    Args:
        predictions: One caption per sample.
        references: The reference captions of each sample.

    Raises:
        ValueError: as for `cider`.
    """
    closest = []
    for prediction, captions in zip(predictions, references, strict=True):
        alone = [[caption] for caption in captions]
        scores = raw_cider([prediction] * len(captions), alone)
        closest.append(captions[scores.index(max(scores))])
    return raw_cider(closest, [[prediction] for prediction in predictions])


class _Weights:
    """The document frequencies of a split, and the similarity of captions under them."""

    def __init__(self, references: Sequence[Sequence[_Counts]]) -> None:
        self._frequency: Counter[_Gram] = Counter()
        for captions in references:
            self._frequency.update({gram for counts in captions for each in counts for gram in each})
        self._log_total = math.log(len(references)) if references else 0.0

    def similarity(self, prediction: _Counts, references: Sequence[_Counts]) -> float:
        """Mean over references and n-gram orders, times 10."""
        # Once for all references.
        predicted = [self._weigh(counts) for counts in prediction]
        length = prediction[1].total()
        total = sum(self._pair(predicted, length, each) for each in references)
        return 10.0 * total / (_MAX_GRAM * len(references))

    def _pair(self, predicted: Sequence[_Weighed], length: int, reference: _Counts) -> float:
        # The tools measure length in bigrams.
        gap = length - reference[1].total()
        penalty = math.exp(-(gap**2) / (2 * _SIGMA**2))
        return penalty * sum(
            _cosine(own, self._weigh(counts)) for own, counts in zip(predicted, reference, strict=True)
        )

    def _weigh(self, counts: Counter[_Gram]) -> _Weighed:
        weights = {
            gram: count * (self._log_total - math.log(max(1, self._frequency[gram])))
            for gram, count in counts.items()
        }
        return weights, math.hypot(*weights.values())


def _cosine(predicted: _Weighed, reference: _Weighed) -> float:
    (weights, own_norm), (meant, norm) = predicted, reference
    if own_norm * norm == 0.0:
        return 0.0
    clipped = (min(weight, meant[gram]) * meant[gram] for gram, weight in weights.items() if gram in meant)
    return sum(clipped) / (own_norm * norm)


def _count(tokens: Sequence[str]) -> _Counts:
    return [
        Counter(tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1))
        for size in range(1, _MAX_GRAM + 1)
    ]
