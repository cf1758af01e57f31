"""A gate per sample from keys of blocks: softmax over the products of a projected query with every key.

ProgLoRA's dynamic allocation (Eq. 5-6) and its recall (Eq. 8), as pure functions and one small module. Both
run in float32 whatever the precision of the model around them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_cvit.adapters.projector import reinitialise

EPSILON = 1e-8
Direction = Literal["forward", "reverse"]


def pool_tokens(embeddings: Tensor, mask: Tensor, pool: Literal["max", "mean"]) -> Tensor:
    """Pool token embeddings over the tokens that count.

    Args:
        embeddings: (S, L, d).
        mask: (S, L) True at tokens that count.
        pool: `max` (Eq. 5) or `mean`.

    Returns:
        (S, d) float32; zeros for a sample without any token.

    Raises:
        ValueError: `pool` is unknown.
    """
    values, counted = embeddings.float(), mask.unsqueeze(-1)
    if pool == "max":
        pooled = values.masked_fill(~counted, float("-inf")).amax(1)
        return pooled.masked_fill(~mask.any(1, keepdim=True), 0.0)
    if pool == "mean":
        return values.masked_fill(~counted, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    raise ValueError(f"pool must be 'max' or 'mean', got {pool!r}")


def recall_divergence(log_gates: Tensor, targets: Tensor, direction: Direction) -> Tensor:
    """Divergence of the gates of now from the stored ones (Eq. 8), one number per sample.

    `forward` is KL(stored || now) = sum_n p_n (log p_n - log q_n), finite although stored gates are padded by
    zeros; `reverse` is KL(now || stored), for which 1e-8 is added to the stored gates.

    Args:
        log_gates: (S, n) logarithms of the gates of now.
        targets: (S, p) stored gates, p <= n; padded by zeros to n blocks.
        direction: See above.

    Returns:
        (S,).

    Raises:
        ValueError: `direction` is unknown.
    """
    padded = functional.pad(targets, (0, log_gates.shape[1] - targets.shape[1]))
    if direction == "forward":
        return functional.kl_div(log_gates, padded, reduction="none").sum(1)
    if direction == "reverse":
        return (log_gates.exp() * (log_gates - (padded + EPSILON).log())).sum(1)
    raise ValueError(f"kl_direction must be 'forward' or 'reverse', got {direction!r}")


class KeyGate(nn.Module):
    """h = LN(W2 SiLU(W1 x + b1) + b2); the weight of block n is softmax_n(h . key_n / temperature).

    Args:
        width: d, of queries and keys.
        hidden: Width of the projector's inner layer (d_p).
        temperature: What the products are divided by.
        key_std: Standard deviation of a fresh key.
        generator: Source of the projector's weights, on the CPU.
    """

    def __init__(
        self, width: int, hidden: int, *, temperature: float, key_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.temperature, self.key_std = temperature, key_std
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.keys = nn.ParameterList()
        reinitialise(self, generator)

    def add_key(self, generator: torch.Generator) -> None:
        """Append the key of a new block."""
        drawn = torch.empty(self.norm.normalized_shape).normal_(std=self.key_std, generator=generator)
        self.keys.append(nn.Parameter(drawn.to(self.norm.weight.device)))

    def train_only(self, *, old_keys: bool) -> None:
        """Choose what trains: the projector and the newest key, and the older keys if so asked.

        A single key has the weight 1 whatever it is, so nothing trains, and weight decay has no hold.
        """
        self.requires_grad_(len(self.keys) > 1)
        for key in list(self.keys)[:-1]:
            key.requires_grad_(old_keys and len(self.keys) > 1)

    def log_gates(self, queries: Tensor) -> Tensor:
        """Logarithms of the gates of queries (S, d): (S, blocks)."""
        with torch.autocast(queries.device.type, enabled=False):
            hidden = self.norm(self.up(functional.silu(self.down(queries.float()))))
            return (hidden @ torch.stack(list(self.keys)).T / self.temperature).log_softmax(-1)

    def forward(self, queries: Tensor) -> Tensor:
        """The gates of queries (S, d): (S, blocks), summing to 1."""
        return self.log_gates(queries).exp()
