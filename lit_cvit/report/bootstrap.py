"""Paired bootstrap over seeds and test samples: the interval of a difference of means over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
# Samples drawn at a time; bounds the memory of large splits.
_DRAWN_AT_ONCE = 2**20


def difference_interval(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], *, paired_seeds: bool
) -> tuple[float, float]:
    """The 95 % interval of the mean over tasks of `ours` less that of `theirs`, the same with every call.

    Each of the resamples draws the test samples of every task anew, the same ones for both sides and for all
    seeds, and then the seeds; its value is the difference of the means of what was drawn. The bounds are the
    2.5 and 97.5 percentiles. What noise both sides share in a sample or a seed cancels.

    Args:
        ours: By task (seeds, samples) scores; one column is a score of the whole split, which is not drawn.
        theirs: The same of the other side; its number of seeds may be another, that of samples may not.
        paired_seeds: Draw the same seeds for both sides, whose rows are then those of the same seeds; else
            each side draws its own.

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: the sides have no task, other numbers of tasks or samples, or, paired, of seeds.
    """
    shapes = [[tuple(scores.shape) for scores in side] for side in (ours, theirs)]
    if not ours or [shape[1] for shape in shapes[0]] != [shape[1] for shape in shapes[1]]:
        raise ValueError(f"a paired bootstrap needs the same samples on both sides, got {shapes}")
    num_ours, num_theirs = shapes[0][0][0], shapes[1][0][0]
    if paired_seeds and num_ours != num_theirs:
        raise ValueError(f"a bootstrap paired by seeds needs as many on both sides, got {shapes}")
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(NUM_RESAMPLES, num_ours + num_theirs, dtype=torch.float64)
    for mine, other in zip(ours, theirs, strict=True):
        means += _resampled(torch.cat([mine, other]).double(), generator) / len(ours)
    mine, other = means.split([num_ours, num_theirs], dim=1)
    seeds = torch.randint(num_ours, mine.shape, generator=generator)
    others = seeds if paired_seeds else torch.randint(num_theirs, other.shape, generator=generator)
    drawn = mine.gather(1, seeds).mean(1) - other.gather(1, others).mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = drawn.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _resampled(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Means of every row of (rows, samples) scores over drawn samples: (resamples, rows)."""
    num_samples = scores.shape[1]
    if num_samples == 1:
        return scores.T.expand(NUM_RESAMPLES, -1)
    at_once = max(1, _DRAWN_AT_ONCE // num_samples)
    parts = []
    for start in range(0, NUM_RESAMPLES, at_once):
        shape = (min(at_once, NUM_RESAMPLES - start), num_samples)
        chosen = torch.randint(num_samples, shape, generator=generator)
        parts.append(torch.stack([row[chosen].mean(1) for row in scores], dim=1))
    return torch.cat(parts)
