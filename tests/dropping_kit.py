"""What the tests of rows that leave the batch share: answers that end at different steps, and without leaving."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from lit_cvit.backbones import Backbone, base, greedy
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod


class Observed:
    """The tokens of a call of `generate`, and the numbers of rows that were left after every drop."""

    def __init__(self, answering: ContinualMethod | Backbone, batch: Batch, num_tokens: int) -> None:
        self.tokens = torch.empty(0)
        self.left: list[int] = []
        with mock.patch.object(base, "greedy_search", self._search):
            self.texts = answering.generate(batch, max_new_tokens=num_tokens)

    def _search(self, model: Any, input_ids: Tensor, on_drop: Any = None, **inputs: Any) -> Tensor:
        def dropped(kept: Tensor) -> None:
            self.left.append(len(kept))
            if on_drop is not None:
                on_drop(kept)

        found = greedy.greedy_search(model, input_ids, on_drop=dropped, **inputs)
        self.tokens = found[:, input_ids.shape[1] :]
        return found


def ending_token(tokens: Tensor) -> int:
    """The token at whose first places (S, T) the most rows would end one after the other."""

    def score(token: int) -> int:
        steps = [row.index(token) for row in tokens.tolist() if token in row]
        return len(set(steps)) + (len(steps) < len(tokens))

    return max(sorted(set(tokens.flatten().tolist())), key=score)


def never(_: list[bool]) -> bool:
    """In place of `greedy._pays`: no row leaves."""
    return False
