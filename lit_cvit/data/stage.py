"""The stream: which task is learned at which stage, and what a stage is."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Sample, SampleSource, Task


@dataclass(frozen=True)
class Stage:
    """A position in the stream: learning one task.

    Attributes:
        number: Position, from 1.
        task: The task that is learned.
        seed: Seed of the run.
        num_steps: Optimizer steps.
        seen: Tasks learned up to and with this stage.
    """

    number: int
    task: Task
    seed: int
    num_steps: int
    seen: tuple[Task, ...]

    def own_rows(self, indices: Sequence[int]) -> list[bool]:
        """Which rows of the stage's training data are the task's own, by position; others come after them."""
        assert self.task.train is not None
        return [index < len(self.task.train) for index in indices]

    def mixed_seed(self, purpose: str) -> int:
        """A seed that depends on run, stage and purpose alone."""
        return mix(purpose, self.seed, self.number)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator seeded by `mixed_seed(purpose)`."""
        return torch.Generator().manual_seed(self.mixed_seed(purpose))


@dataclass(frozen=True)
class UnionSource:
    """Several splits one after the other, for joint training."""

    parts: tuple[SampleSource, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Sample `index` of the concatenation.

        Raises:
            ValueError: the index is out of range, or the record is bad.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"sample {index} of joint data is not in 0..{len(self) - 1}")
        ends = list(accumulate(len(part) for part in self.parts))
        number = bisect.bisect_right(ends, index)
        start = ends[number - 1] if number else 0
        return self.parts[number].sample(index - start, epoch)

    def digest(self) -> str:
        """A digest of the parts, in order."""
        return hashlib.sha256("".join(part.digest() for part in self.parts).encode()).hexdigest()


def joint_task(tasks: Sequence[Task]) -> Task:
    """The union of the tasks' training splits as one task; it cannot be tested as a whole.

    Raises:
        ValueError: a task has no training split.
    """
    parts = []
    for task in tasks:
        if task.train is None:
            raise ValueError(f"joint training needs a training split of every task; {task.name!r} has none")
        parts.append(task.train)
    instructions = tuple(dict.fromkeys(string for task in tasks for string in task.instructions))
    return dataclasses.replace(
        tasks[0], name="joint", train=UnionSource(tuple(parts)), instructions=instructions, few_shot=False
    )
