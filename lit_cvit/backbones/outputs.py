"""What a backbone says about the answers of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AnswerStates(NamedTuple):
    """Where the N answer tokens of a batch are predicted from, ordered by sample and position.

    Attributes:
        states: (N, d) hidden states, before the output head.
        labels: (N,) token that is right.
        rows: (N,) sample that each token belongs to.
    """

    states: Tensor
    labels: Tensor
    rows: Tensor


class AnswerLogits(NamedTuple):
    """Predictions of the N answer tokens of a batch, ordered by sample and position.

    Attributes:
        logits: (N, V) float32.
        labels: (N,) token that is right.
        rows: (N,) sample that each token belongs to.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor


class LossOutput(NamedTuple):
    """Cross entropy over the answer tokens of a batch, in nats.

    Attributes:
        loss_sum: () sum over all answer tokens.
        num_tokens: Number of answer tokens.
        states: (N, d) hidden states that the answer tokens are predicted from.
    """

    loss_sum: Tensor
    num_tokens: int
    states: Tensor
