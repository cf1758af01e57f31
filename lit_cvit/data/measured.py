"""Numbers of a split's samples that cost time to find: measured once a run, then looked up by a digest.

The digest covers everything that the numbers depend on, so that what was measured under other conditions is
never used. Where they outlive the process is up to a store, such as a run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lit_cvit.utils.distributed import from_first, rank


class MeasurementStore(Protocol):
    """Where measurements outlive their process; a `RunFolder` is one."""

    def measurement(self, name: str) -> Tensor | None:
        """What was saved under a name, or None."""
        ...

    def save_measurement(self, name: str, values: Tensor) -> None:
        """Save under a name, whole or not at all."""
        ...


class Measured:
    """Measurements by name: in memory, and in a store once there is one."""

    def __init__(self) -> None:
        self._store: MeasurementStore | None = None
        self._values: dict[str, Tensor] = {}

    def keep_in(self, store: MeasurementStore) -> None:
        """Look there for measurements of earlier processes, and save new ones there; rank 0 alone does."""
        self._store = store

    def values(self, name: str, measure: Callable[[], Sequence[int]]) -> Tensor:
        """One number for every sample of a split; do not change them.

        Every rank must call it at the same point: rank 0 looks up or measures, and sends what it has.

        Args:
            name: What is measured, with a digest of everything that decides the numbers.
            measure: Called on rank 0 where nothing is saved under this name.

        Returns:
            (N,) int32.
        """
        if name not in self._values:
            found = self._saved_or_new(name, measure) if rank() == 0 else torch.empty(0)
            self._values[name] = from_first(found)
        return self._values[name]

    def _saved_or_new(self, name: str, measure: Callable[[], Sequence[int]]) -> Tensor:
        found = self._store.measurement(name) if self._store is not None else None
        if found is None:
            found = torch.tensor(measure(), dtype=torch.int32)
            if self._store is not None:
                self._store.save_measurement(name, found)
        return found


def name_with_digest(what: str, *parts: str) -> str:
    """The name of a measurement: what is measured, and a digest of strings, digests among them."""
    return f"{what}-{hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()}"
