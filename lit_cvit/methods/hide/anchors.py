"""Anchors: the mean features of every task's training samples, and the blocks' weights that follow from them.

Source: HiDe-LLaVA, arXiv 2503.12941, Eq. 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_cvit.methods.prompt_features import Features
from lit_cvit.utils.distributed import summed


class Anchors(nn.Module):
    """Sums (T, d) and counts (T,) of a modality's features by task, in fp32; their quotients are anchors."""

    sums: Tensor
    counts: Tensor

    def __init__(self, width: int) -> None:
        """Begin without any task.

        Args:
            width: Length d of a feature.
        """
        super().__init__()
        self.register_buffer("sums", torch.zeros(0, width))
        self.register_buffer("counts", torch.zeros(0))

    def grow(self) -> None:
        """Begin the anchor of a new task."""
        self.sums = torch.cat([self.sums, self.sums.new_zeros(1, self.sums.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])

    @torch.no_grad()
    def add(self, values: Tensor, counted: Tensor) -> None:
        """Add samples of all ranks to the newest task's anchor; every rank must call it, in the same order.

        Args:
            values: (S, d) features.
            counted: (S,) True at the samples to add; there may be none.
        """
        part = values.float().masked_fill(~counted.unsqueeze(1), 0).sum(0)
        total = summed(torch.cat([part, counted.sum(dtype=part.dtype).reshape(1)]))
        self.sums[-1] += total[:-1]
        self.counts[-1] += total[-1]

    def similarity(self, values: Tensor) -> Tensor:
        """Cosine of features (S, d) with every anchor: (S, T); 0 with an anchor that counts nothing."""
        # The cosine does not see the length, so sums serve as well as means.
        return functional.normalize(values.float(), dim=1) @ functional.normalize(self.sums, dim=1).T


def anchor_weights(
    anchors: Sequence[Anchors], features: Sequence[Features], shares: Sequence[float], *, temperature: float
) -> Tensor:
    """How much of every task's block each sample gets in an expanded layer (Eq. 4).

    A modality that a sample or a task does not have is left out for the pair, and the others take its share.
    A pair without any has similarity 0; a task without any anchor gets nothing as long as another has one.

    Args:
        anchors: The anchors of every modality, at least one.
        features: The batch's features of every modality.
        shares: alpha and beta, one for every modality.
        temperature: Divides the similarities.

    Returns:
        (S, T), every row summing to 1.
    """
    known = torch.stack([each.counts > 0 for each in anchors])
    both = torch.stack([each.present for each in features]).unsqueeze(2) & known.unsqueeze(1)
    weights = both * both.new_tensor(shares, dtype=torch.float32).reshape(-1, 1, 1)
    cosines = [each.similarity(of.values) for each, of in zip(anchors, features, strict=True)]
    present = weights.sum(0)
    similarity = (weights * torch.stack(cosines)).sum(0) / present.masked_fill(present == 0, 1)
    unknown = ~known.any(0) & known.any()
    return (sum(shares) * similarity / temperature).masked_fill(unknown, -torch.inf).softmax(-1)
