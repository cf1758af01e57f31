"""Answer tokens of training rows, measured once: the sampler divides the loss of a step by their sum.

A split is measured when a stage first needs it, by rank 0, and kept in the run folder, so that the other
ranks and a resumed run do not tokenise it again. Rows that come back in a later stage, and the union of all
tasks, are parts of splits and never measured themselves.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

import torch
from torch import Tensor

from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.stage import UnionSource
from lit_cvit.data.tasks import Encoder, SampleSource
from lit_cvit.utils.distributed import from_first, rank

_CHUNK = 1024


class MeasurementStore(Protocol):
    """Where measurements outlive their process; a `RunFolder` is one."""

    def measurement(self, name: str) -> Tensor | None:
        """What was saved under a name, or None."""
        ...

    def save_measurement(self, name: str, values: Tensor) -> None:
        """Save under a name, whole or not at all."""
        ...


class AnswerTokens:
    """Answer tokens of every row of a split, as the loss counts them.

    Args:
        encoder: The encoder of the backbone.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._store: MeasurementStore | None = None
        self._counts: dict[str, Tensor] = {}

    def keep_in(self, store: MeasurementStore) -> None:
        """Look there for measurements of earlier processes, and keep new ones there; rank 0 alone does."""
        self._store = store

    def measure(self, source: SampleSource, epochs: int) -> None:
        """Measure what these epochs of a split need; every rank must call it at the same point.

        Raises:
            ValueError: a record is bad, or has an answer that cannot be learned; names it.
        """
        for epoch in range(epochs):
            self.of(source, epoch)

    def of(self, source: SampleSource, epoch: int = 0) -> Tensor:
        """Answer tokens of each row: (len(source),), int32; do not change it.

        What was not measured before is measured now, and then every rank must call at the same point.

        Args:
            source: The split.
            epoch: The epoch; it only matters where `encoder.answers_vary`.

        Raises:
            ValueError: as for `measure`.
        """
        if isinstance(source, UnionSource):
            return torch.cat([self.of(part, epoch) for part in source.parts])
        if isinstance(source, SubsetSource):
            return self.of(source.source, epoch)[list(source.rows)]
        epoch = epoch if self.encoder.answers_vary else 0
        key = self._key(source, epoch)
        if key not in self._counts:
            found = self._stored_or_measured(source, epoch, key) if rank() == 0 else None
            self._counts[key] = _present(from_first(found))
        return self._counts[key]

    def _key(self, source: SampleSource, epoch: int) -> str:
        parts = json.dumps([source.digest(), self.encoder.answers_digest(), epoch])
        return hashlib.blake2b(parts.encode("utf-8"), digest_size=16).hexdigest()

    def _stored_or_measured(self, source: SampleSource, epoch: int, key: str) -> Tensor:
        name = f"answer_tokens-{key}"
        found = self._store.measurement(name) if self._store is not None else None
        if found is None:
            found = measured(source, self.encoder, epoch)
            if self._store is not None:
                self._store.save_measurement(name, found)
        return found


def measured(source: SampleSource, encoder: Encoder, epoch: int = 0) -> Tensor:
    """Go through a split once and count the answer tokens of each row: (len(source),), int32.

    Raises:
        ValueError: a record is bad, or has an answer that cannot be learned; names it.
    """
    counts: list[int] = []
    for start in range(0, len(source), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source)))
        counts += encoder.answer_tokens([source.sample(row, epoch) for row in rows])
    return torch.tensor(counts, dtype=torch.int32)


def _present(counts: Tensor | None) -> Tensor:
    assert counts is not None, "rank 0 measures for all"
    return counts
