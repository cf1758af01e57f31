"""The order of samples, as pure functions of (seed, stage, epoch).

Training: the epoch's order is cut into global batches (one per optimizer step) first, and each is then dealt
to ranks and micro-batches. So the union over ranks of step k is the same for every world size, and a resumed
run continues by skipping. A micro-batch comes with the facts of its optimizer step: number, place in it, and
the step's answer tokens. Evaluation: batches are built over the whole split and whole batches are dealt, so
that padding does not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler


def mix(*parts: int | str) -> int:
    """Hash integers and strings to a 63-bit seed (BLAKE2b); equal on every platform and Python version.

    The encoding is unambiguous: `mix(1, 23)`, `mix(12, 3)` and `mix("1", 23)` differ.
    """
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        body = str(part).encode("utf-8")
        hasher.update(b"%s%d:" % (b"s" if isinstance(part, str) else b"i", len(body)))
        hasher.update(body)
    return int.from_bytes(hasher.digest(), "big") >> 1


def epoch_order(num_samples: int, *, seed: int, stage: int, epoch: int) -> Tensor:
    """Return the order in which an epoch of a stage visits its samples, as int64 of shape (num_samples,)."""
    generator = torch.Generator().manual_seed(mix("order", seed, stage, epoch))
    return torch.randperm(num_samples, generator=generator)


def global_batches(
    num_samples: int, global_batch_size: int, *, seed: int, stage: int, epoch: int
) -> tuple[Tensor, ...]:
    """Return the sample indices of every optimizer step of an epoch; the last step keeps what is left."""
    order = epoch_order(num_samples, seed=seed, stage=stage, epoch=epoch)
    return order.split(global_batch_size) if num_samples else ()


def evenly_spaced(num_rows: int, amount: int) -> list[int]:
    """At most `amount` of the positions 0 to num_rows - 1, evenly spaced from 0 on."""
    amount = min(amount, num_rows)
    return [number * num_rows // amount for number in range(amount)]


@dataclass(frozen=True, slots=True)
class Pick:
    """What a sampler asks of the data set.

    Attributes:
        index: Position of the sample in its split.
        epoch: Epoch that it is drawn for; templates depend on it.
        counted: False for a filler: every rank must run the same number of micro-batches, so a rank that
            has no sample left in the last step repeats one. Fillers must not count in any loss or statistic.
    """

    index: int
    epoch: int
    counted: bool = True


class Place(NamedTuple):
    """Where a micro-batch stands in its stage.

    Attributes:
        step: Optimizer step of the stage, from 0.
        micro: Number of the micro-batch in the step, from 0, among this rank's.
        num_micro: Micro-batches of the step on each rank; an epoch's last step may have fewer.
    """

    step: int
    micro: int
    num_micro: int

    @property
    def ends_step(self) -> bool:
        """Whether the optimizer steps after this micro-batch."""
        return self.micro + 1 == self.num_micro


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A micro-batch of one rank, and what is known of its optimizer step before it is encoded.

    Attributes:
        picks: Its samples.
        place: Its place in the stage.
        tokens: Answer tokens of its counted samples.
        step_tokens: Answer tokens of the whole step, over micro-batches and ranks.
        step_samples: Samples of the whole step.
    """

    picks: tuple[Pick, ...]
    place: Place
    tokens: int = 0
    step_tokens: int = 0
    step_samples: int = 0


AnswerTokensOfEpoch = Callable[[int], Tensor]
"""Answer tokens of every sample of a split in an epoch: (num_samples,), whole numbers."""


class TrainBatchSampler(Sampler[MicroBatch]):
    """This rank's micro-batches of one epoch, for a `DataLoader` that asks its data set for whole batches.

    `len` is the number of micro-batches of the whole epoch, also after a skip, and equal on all ranks.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        global_batch_size: int,
        *,
        seed: int,
        stage: int,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
        answer_tokens: AnswerTokensOfEpoch | None = None,
    ) -> None:
        """Set up the order.

        Args:
            num_samples: Samples of the split.
            batch_size: Samples of a micro-batch on one rank.
            global_batch_size: Samples of an optimizer step over all ranks and micro-batches.
            seed: Seed of the run.
            stage: Stage of the stream.
            epoch: Epoch of the stage.
            rank: This process.
            world_size: Number of processes.
            skip: Micro-batches of this rank to leave out at the start of this epoch.
            answer_tokens: Answer tokens of every sample; without it micro-batches have none.

        Raises:
            ValueError: sizes are not positive, the rank is out of range, `global_batch_size` is not a
                multiple of `batch_size * world_size`, or `skip` exceeds the epoch.
        """
        _require_positive(num_samples=num_samples, batch_size=batch_size, global_batch_size=global_batch_size)
        _require_rank(rank, world_size)
        share = batch_size * world_size
        if global_batch_size % share:
            near = max(share, round(global_batch_size / share) * share)
            raise ValueError(
                f"global_batch_size {global_batch_size} must be a multiple of batch_size x world_size = "
                f"{batch_size} x {world_size} = {share}; the nearest is {near}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.stage = stage
        self.rank = rank
        self.world_size = world_size
        self.answer_tokens = answer_tokens
        self.epoch, self.skip = epoch, 0
        self.set_epoch(epoch, skip=skip)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self.num_samples // self.global_batch_size)

    @property
    def accumulate(self) -> int:
        """Micro-batches of a full optimizer step on one rank; the last step of an epoch may have fewer."""
        return self.global_batch_size // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int, *, skip: int | None = None) -> None:
        """Move to another epoch, leaving out its first `skip` micro-batches of this rank.

        Without `skip` the epoch begins at its start, unless it is the one that the sampler is in already: a
        trainer names the epoch again after a resume has set both.

        Raises:
            ValueError: `skip` is negative or exceeds the epoch.
        """
        if skip is None:
            skip = self.skip if epoch == self.epoch else 0
        if not 0 <= skip <= len(self):
            raise ValueError(f"skip must be 0 to {len(self)} (the micro-batches of the epoch), got {skip}")
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        full, rest = divmod(self.num_samples, self.global_batch_size)
        return full * self.accumulate + -(-rest // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[MicroBatch]:
        steps = global_batches(
            self.num_samples, self.global_batch_size, seed=self.seed, stage=self.stage, epoch=self.epoch
        )
        tokens = None if self.answer_tokens is None else self.answer_tokens(self.epoch)
        skip, self.skip = self.skip, 0
        done, within = divmod(skip, self.accumulate)
        for step in range(done, len(steps)):
            yield from self._micro_batches(step, steps[step], tokens)[within if step == done else 0 :]

    def _micro_batches(self, step: int, rows: Tensor, tokens: Tensor | None) -> list[MicroBatch]:
        """Deal one step: every rank gets as many micro-batches, their sizes differing by at most one."""
        indices = rows.tolist()
        counts = [0] * len(indices) if tokens is None else tokens[rows].tolist()
        num_micro = -(-len(indices) // (self.batch_size * self.world_size))
        parts = self.world_size * num_micro
        dealt = []
        for micro in range(num_micro):
            part = self.rank * num_micro + micro
            own = slice(*(-(-len(indices) * bound // parts) for bound in (part, part + 1)))
            picks = tuple(Pick(index, self.epoch) for index in indices[own])
            filler = (Pick(indices[0], self.epoch, counted=False),)
            place = Place(self.epoch * self.num_steps + step, micro, num_micro)
            dealt.append(MicroBatch(picks or filler, place, sum(counts[own]), sum(counts), len(indices)))
        return dealt


@dataclass(frozen=True)
class EvalPlan:
    """A split in whole batches of samples of like length, longest first: a lack of memory shows at once.

    The batches are dealt to the ranks in turn. A round is what the ranks answer side by side: one batch each,
    and in the last round perhaps none on some.

    Attributes:
        batches: Positions in the split of the samples of every batch.
    """

    batches: list[list[int]]

    @classmethod
    def of(cls, lengths: Sequence[int] | Tensor, batch_size: int) -> EvalPlan:
        """Plan a split.

        Args:
            lengths: Length of every sample (tokens or characters); samples of equal length keep their order.
            batch_size: Samples of a batch on one rank.

        Raises:
            ValueError: `batch_size` is not positive.
        """
        _require_positive(batch_size=batch_size)
        order = torch.as_tensor(lengths).argsort(stable=True, descending=True).tolist()
        return cls([order[start : start + batch_size] for start in range(0, len(order), batch_size)])

    def num_rounds(self, world_size: int) -> int:
        """Rounds of `world_size` ranks."""
        return -(-len(self.batches) // world_size)

    def round(self, number: int, world_size: int) -> list[list[int]]:
        """The batches of round `number`, from 0, by rank; none past the last round."""
        return self.batches[number * world_size : (number + 1) * world_size]


class EvalBatchSampler(Sampler[list[int]]):
    """This rank's batches of an evaluation.

    `len` is the number of batches of this rank, also after a skip; it may differ by one between ranks.
    """

    def __init__(self, plan: EvalPlan, *, rank: int = 0, world_size: int = 1, skip_batches: int = 0) -> None:
        """Set up the batches.

        Args:
            plan: The batches of all ranks.
            rank: This process.
            world_size: Number of processes.
            skip_batches: Batches of this rank to leave out at the start.

        Raises:
            ValueError: the rank is out of range, or `skip_batches` exceeds the batches of this rank.
        """
        _require_rank(rank, world_size)
        self._batches = plan.batches[rank::world_size]
        if not 0 <= skip_batches <= len(self._batches):
            allowed = f"0 to {len(self._batches)} (the batches of this rank)"
            raise ValueError(f"skip_batches must be {allowed}, got {skip_batches}")
        self.skip_batches = skip_batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches[self.skip_batches :])


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _require_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1 = {world_size - 1}, got {rank}")
