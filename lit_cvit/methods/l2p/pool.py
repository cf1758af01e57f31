"""PromptPool: prompts with a key each; the keys that are nearest to a query choose the prompts.

The comparison runs in float32 whatever the precision of the model around it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PromptPool(nn.Module):
    """M prompts of n positions of width d, and M keys of width e.

    Args:
        table: (V, d) embeddings of tokens; a prompt starts from those of tokens drawn at random.
        size: M.
        length: n.
        query_width: e.
        generator: Source of the draws, on the CPU.
    """

    def __init__(
        self, table: Tensor, *, size: int, length: int, query_width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        tokens = torch.randint(len(table), (size, length), generator=generator)
        keys = torch.empty(size, query_width).uniform_(-1, 1, generator=generator)
        self.prompts = nn.Parameter(table.detach()[tokens.to(table.device)].float())
        self.keys = nn.Parameter(keys.to(table.device))

    def similarities(self, queries: Tensor) -> Tensor:
        """Cosines of queries (S, e) with all keys: (S, M); 0 for a query of zeros."""
        with torch.autocast(queries.device.type, enabled=False):
            return functional.normalize(queries.float()) @ functional.normalize(self.keys.float()).T

    def forward(self, chosen: Tensor) -> Tensor:
        """The prompts (S, k) of each sample, one after the other: (S, k n, d)."""
        return self.prompts[chosen].flatten(1, 2)


def nearest(similarities: Tensor, number: int) -> Tensor:
    """The keys nearest to each query, nearest first; of equally near ones those of lower number.

    Args:
        similarities: (S, M).
        number: k.

    Returns:
        (S, k).
    """
    return similarities.argsort(dim=1, descending=True, stable=True)[:, :number]


def majority(chosen: Tensor, size: int) -> Tensor:
    """The keys that most samples of a batch have chosen, for all of them; of a tie those of lower number.

    Args:
        chosen: (S, k).
        size: M.

    Returns:
        (S, k), all rows equal.
    """
    votes = (chosen.unsqueeze(-1) == torch.arange(size, device=chosen.device)).sum((0, 1))
    return nearest(votes.unsqueeze(0), chosen.shape[1]).expand_as(chosen)
