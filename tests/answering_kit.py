"""What the tests of answers share: methods unlike their backbone, answers that end one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from stream_kit import fit, small_method
from torch import Tensor

from callbacks import DynamicEMA
from lit_cvit import methods
from lit_cvit.backbones import Backbone, base, greedy
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod


def trained(folder: Path, runs: Path, name: str, settings: dict[str, Any]) -> ContinualMethod:
    """A method after two stages, with adapters that are not zero, in evaluation mode."""
    method = small_method(folder, getattr(methods, name), **settings)
    fit(runs, method, callbacks=[DynamicEMA()] if method.requires_callbacks else [])
    return stirred(method, 0.1)


@torch.no_grad()
def stirred(method: ContinualMethod, scale: float) -> ContinualMethod:
    """The method in evaluation mode, with noise on what is zero at first."""
    generator = torch.Generator().manual_seed(1)
    for key, tensor in method.tensors().items():
        if key.endswith(".B") or ".copies." in key:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * scale)
    return method.eval()


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
