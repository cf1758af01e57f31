"""Means of several caption metrics: HiDe's one number for captions, and what is left of it without Java."""

from __future__ import annotations

from collections.abc import Sequence

from lit_cvit.metrics.bleu import Bleu
from lit_cvit.metrics.captions import cider
from lit_cvit.metrics.meteor import meteor
from lit_cvit.metrics.rouge import rouge_l
from lit_cvit.metrics.scored import Scored, mean_of_samples


def mean_of_seven(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return the mean of BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr; needs the extra `captions` and Java.

    HiDe-LLaVA (arXiv 2503.12941, App. G, eval_caption.py) and MCITlib report it for captions. CIDEr, which
    goes up to 10 where the others end at 1, outweighs the rest.

    Args:
        predictions: One caption per sample.
        references: The reference captions of each sample, at least one.

    Raises:
        ValueError: as for `meteor`.
    """
    # First, because it is the one that can be missing.
    return _mean([meteor(predictions, references), *_six(predictions, references)])


def mean_of_six(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return the mean of BLEU-1 to BLEU-4, ROUGE-L and CIDEr; it does not compare with the mean of seven.

    Arguments and errors as in `cider`.
    """
    return _mean(_six(predictions, references))


def _six(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Scored]:
    pooled = [Bleu(order)(predictions, references) for order in range(1, 5)]
    averaged = [metric(predictions, references) for metric in (rouge_l, cider)]
    return [*pooled, *map(mean_of_samples, averaged)]


def _mean(parts: Sequence[Scored]) -> Scored:
    by_sample = zip(*(part.samples for part in parts), strict=True)
    return Scored(
        [sum(values) / len(parts) for values in by_sample], sum(part.percent for part in parts) / len(parts)
    )
