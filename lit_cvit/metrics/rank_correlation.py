"""Whether two lists of scores put the same things ahead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics.functional import spearman_corrcoef


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation, -1 to 1; equal values share their mean rank."""
    pair = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    return float(spearman_corrcoef(*pair))
