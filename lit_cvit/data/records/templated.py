"""Prepared records with a benchmark's instructions, and fixed draws of the records of a large file.

Prepared records carry no instruction, so that one preparation serves every style and wording.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Sample


@dataclass(frozen=True)
class DrawnRecords:
    """Some of a file's records, the same ones every time, in the order of the file; a `SampleSource`.

    They are drawn, not taken from the start: a file sorted by class would show a few classes only.

    Attributes:
        records: All of them.
        seed: Seed of the draw. A larger draw with the same seed holds the smaller one.
        limit: At most so many; None: no limit.
        shots: So many of each class, which is the first answer; None: whatever the classes are.
    """

    records: RecordSource
    seed: int
    limit: int | None = None
    shots: int | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Return drawn record `index`.

        Raises:
            IndexError: `index` is negative or past the end.
            RecordError: the record is bad; see `RecordSource.sample`.
        """
        return self.records.sample(self._row(index), epoch)

    def where(self, index: int) -> str:
        """Name the file and the line or index of a drawn record."""
        return self.records.where(self._row(index))

    def digest(self) -> str:
        """Hash the records and what decides the draw."""
        return _hash(self.records.digest(), self.seed, self.limit, self.shots)

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.records.file.path}: {len(self)} records are drawn, got index {index}")
        return int(self._rows[index])

    @cached_property
    def _rows(self) -> npt.NDArray[np.int64]:
        order = np.random.default_rng(mix("draw", self.seed)).permutation(len(self.records))
        if self.shots is not None:
            order = self._few_of_each(order, self.shots)
        return np.sort(order[: self.limit])

    def _few_of_each(self, order: npt.NDArray[np.int64], shots: int) -> npt.NDArray[np.int64]:
        taken: Counter[str] = Counter()
        rows = []
        for row in order:
            answer = self.records.sample(int(row)).answers[0]
            if taken[answer] < shots:
                taken[answer] += 1
                rows.append(row)
        if scarce := sorted(answer for answer, count in taken.items() if count < shots):
            warnings.warn(
                f"{self.records.file.path}: {len(scarce)} of {len(taken)} classes have fewer than "
                f"{shots} records, {scarce[0]!r} the first of them",
                stacklevel=2,
            )
        return np.array(rows, np.int64)


@dataclass(frozen=True)
class TemplatedSource:
    """Prepared records, each with an instruction of its task; a `SampleSource`.

    The instruction is a pure function of (seed, split, epoch, id of the record).

    Attributes:
        records: The records, without instructions.
        task: Name of the task.
        split: `train` or `test`.
        seed: Seed of the benchmark.
        instructions: Strings to draw from; more than one is the multi-type setting.
        question: Asked of every record instead of its own question; None: the records' own.
        layout: The user's turn with {question} and {instruction}; empty: one below the other.
        open_instructions: Strings to draw from for records without choices; empty: the same as for others.
    """

    records: RecordSource | DrawnRecords
    task: str
    split: str
    seed: int
    instructions: tuple[str, ...]
    question: str | None = None
    layout: str = ""
    open_instructions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Return sample `index`; only its instruction depends on the epoch.

        Raises:
            IndexError: `index` is negative or past the end.
            RecordError: the record is bad, or is not one of those that `prepare` writes.
        """
        given = self.records.sample(index)
        if given.text or given.instruction:
            cause = "it has an instruction in its text"
            fix = "prepared records have 'question' and 'answers', others are read with the setting 'files'"
            place = f"{self.where(index)} (id {given.id!r})"
            raise RecordError.of(cause, place=place, cause=cause, fix=fix)
        strings = self.instructions if given.choices else self.open_instructions or self.instructions
        drawn = mix("instruction", self.seed, self.task, self.split, epoch, given.id)
        instruction = strings[drawn % len(strings)]
        question = given.question if self.question is None else self.question
        text = self.layout.format(question=question, instruction=instruction)
        return dataclasses.replace(given, question=question, instruction=instruction, text=text)

    def where(self, index: int) -> str:
        """Name the file and the line or index of a sample's record."""
        return self.records.where(index)

    def digest(self) -> str:
        """Hash the records and everything that decides the samples' texts."""
        texts = (*self.instructions, None, *self.open_instructions, self.question, self.layout)
        return _hash(self.records.digest(), self.task, self.split, self.seed, *texts)


def _hash(*parts: str | int | None) -> str:
    return hashlib.blake2b(json.dumps(parts).encode("utf-8"), digest_size=16).hexdigest()
