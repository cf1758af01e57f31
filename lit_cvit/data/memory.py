"""Which rows of earlier tasks are kept, and how many of them come back: pure functions of a seed.

A memory holds positions, not samples: the data of an earlier task stays where it is. Rows are kept in an
order of their own, and whoever needs n of them takes the first n, so that a smaller memory is the beginning
of a larger one and nothing has to be drawn again when the number changes (ProgLoRA, Sec. 4.2).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Sample, SampleSource

Sizes = Literal["fixed", "fraction", "similarity"]


def memory_rows(num_rows: int, amount: int, *, seed: int, task: str) -> list[int]:
    """Rows of a task to keep, drawn without replacement.

    Args:
        num_rows: Rows of the task.
        amount: Rows to keep, or all there are.
        seed: Seed of the run.
        task: Name of the task, which decides the draw with the seed.

    Returns:
        Positions in the task's split; those for a smaller `amount` are the first of those for a larger one.
    """
    generator = torch.Generator().manual_seed(mix("memory", seed, task))
    return torch.randperm(num_rows, generator=generator)[:amount].tolist()


def reservoir_rows(num_rows: Mapping[str, int], capacity: int, *, seed: int) -> dict[str, list[int]]:
    """Rows of all tasks seen so far in one memory of a fixed size, every row being as likely as any other.

    Each row has a priority, drawn from the seed and the task alone, and the smallest `capacity` of them are
    kept. That is reservoir sampling (Vitter's algorithm R) with the draws made known in advance: a row that
    was dropped never comes back, and nothing beside the result has to be stored.

    Args:
        num_rows: Rows of each task seen, by name.
        capacity: Rows that fit.
        seed: Seed of the run.

    Returns:
        Positions by task, by priority; a task of which nothing is left has an empty list.
    """
    names = list(num_rows)
    drawn = [_priorities(num_rows[name], seed=seed, task=name) for name in names]
    if not drawn:
        return {}
    priority = torch.cat(drawn)
    owner = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(each) for each in drawn]))
    position = torch.cat([torch.arange(len(each)) for each in drawn])
    chosen = priority.argsort(stable=True)[:capacity]
    return {name: position[chosen[owner[chosen] == number]].tolist() for number, name in enumerate(names)}


def _priorities(num_rows: int, *, seed: int, task: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(mix("reservoir", seed, task))
    return torch.rand(num_rows, generator=generator, dtype=torch.float64)


def recall_size(num_rows: int, *, sizes: Sizes, amount: float, similarity: float | None = None) -> int:
    """How many rows of an earlier task come back while another task is learned.

    Args:
        num_rows: Rows that the earlier task has.
        sizes: `fixed`: `amount`; `fraction`: that share of the rows; `similarity`: (1 - w) * `amount`, the
            less alike the tasks the more (ProgLoRA, Sec. 4.2, where `amount` is phi).
        amount: See `sizes`.
        similarity: w of the two tasks; it is taken into [0, 1].

    Returns:
        Rounded, and between 0 and `num_rows`.

    Raises:
        ValueError: `similarity` is needed and missing.
    """
    if sizes == "similarity":
        if similarity is None:
            raise ValueError("sizes 'similarity' needs the similarity of the two tasks, got none")
        wanted = (1 - min(1.0, max(0.0, similarity))) * amount
    else:
        wanted = amount * num_rows if sizes == "fraction" else amount
    return min(max(0, round(wanted)), num_rows)


def cycled(num_rows: int, batch_size: int, *, step: int, seed: int) -> list[int]:
    """The rows that a step takes when a memory is passed through again and again, each time in a new order.

    Args:
        num_rows: Rows of the memory, at least one.
        batch_size: Rows of a step; a memory that has fewer gives all of them.
        step: Step, from 0.
        seed: Seed of the orders.

    Returns:
        Positions in the memory. Over the steps every row is taken equally often; a step in which one pass
        ends and the next begins may hold a row twice.
    """
    size = min(batch_size, num_rows)
    passes, start = divmod(step * size, num_rows)
    taken = _order(num_rows, seed, passes)[start : start + size]
    if len(taken) < size:
        taken += _order(num_rows, seed, passes + 1)[: size - len(taken)]
    return list(taken)


# The micro-batches of a step ask for the same orders one after the other.
@functools.lru_cache(maxsize=4)
def _order(num_rows: int, seed: int, number: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(mix("pass", seed, number))
    return tuple(torch.randperm(num_rows, generator=generator).tolist())


def share(rows: Sequence[int], part: int, parts: int) -> list[int]:
    """Part `part` of `parts` of a step's rows, in order; sizes differ by at most one and may be 0."""
    bounds = [-(-len(rows) * number // parts) for number in (part, part + 1)]
    return list(rows[bounds[0] : bounds[1]])


@dataclass(frozen=True)
class SubsetSource:
    """Some rows of a split, as a split; a `SampleSource`. Picklable.

    Attributes:
        source: The split.
        rows: Positions in it.
    """

    source: SampleSource
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Sample `index` of the subset.

        Raises:
            ValueError: the index is out of range, or the record is bad.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"sample {index} of a memory is not in 0..{len(self) - 1}")
        return self.source.sample(self.rows[index], epoch)

    def digest(self) -> str:
        """A digest of the split and the rows."""
        text = f"{self.source.digest()} {','.join(map(str, self.rows))}"
        return hashlib.sha256(text.encode()).hexdigest()
