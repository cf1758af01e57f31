"""The scores of a split: one per sample, and the one of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Scored:
    """The scores of a split.

    Attributes:
        samples: One score per sample, in the order of the samples.
        percent: The score of the whole split, in percent. For most scorers 100 times the mean over samples;
            BLEU and METEOR pool counts over the split first, so theirs is no mean. NaN for an empty split.
    """

    samples: list[float]
    percent: float


def mean_of_samples(samples: list[float]) -> Scored:
    """The scores of a split whose score is 100 times the mean over its samples.

    Args:
        samples: One score per sample.
    """
    return Scored(samples, 100 * sum(samples) / len(samples) if samples else math.nan)


def check_captions(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse captions that cannot be scored.

    Args:
        metric: The metric's name, for the message.
        predictions: One caption per sample.
        references: The reference captions of each sample.

    Raises:
        ValueError: the lengths differ, or a sample has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{metric} got {len(predictions)} predictions for {len(references)} samples")
    for index, captions in enumerate(references):
        if not captions:
            raise ValueError(f"{metric}: sample {index} has no reference caption")


class ScoredSample(Protocol):
    """What a scorer reads of a sample."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Reference answers, at least one."""
        ...

    @property
    def choices(self) -> tuple[str, ...]:
        """Options of a multiple-choice question in letter order; empty for other questions."""
        ...
