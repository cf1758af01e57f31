"""Restricted fields: reading a field that the method does not declare is an error, not an empty text."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from lit_cvit.data.tasks import Batch, Sample

_FIELDS = {field.name for field in dataclasses.fields(Sample)}


class RestrictedSample(Sample):
    """A sample some of whose fields cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS and name in object.__getattribute__(self, "__dict__")["_hidden"]:
            raise RuntimeError(
                f"the method reads `sample.{name}`, which its property `access` does not declare"
            )
        return super().__getattribute__(name)


def restrict(sample: Sample, hidden: Collection[str]) -> Sample:
    """The sample without the fields in `hidden`; the user's turn stays readable as a whole."""
    if not hidden:
        return sample
    values = {field.name: getattr(sample, field.name) for field in dataclasses.fields(sample)}
    restricted = object.__new__(RestrictedSample)
    restricted.__dict__.update(values, text=sample.user_text, _hidden=frozenset(hidden))
    return restricted


def restrict_batch(batch: Batch, hidden: Collection[str]) -> Batch:
    """The batch with its samples restricted."""
    return dataclasses.replace(batch, samples=[restrict(sample, hidden) for sample in batch.samples])
