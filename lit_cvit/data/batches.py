"""How loader workers make the batches that a sampler asks for, and a loader that a resume can put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from lit_cvit.data.restricted import restrict_batch
from lit_cvit.data.sampling import MicroBatch, TrainBatchSampler
from lit_cvit.data.tasks import Batch, Encoder, SampleSource
from lit_cvit.data.workers import BatchLoader, Failure, in_worker


class Batches(Dataset[Batch]):
    """Whole batches by what the batch sampler asks for, so that a worker encodes a batch at once.

    Args:
        source: The split.
        build: Makes a batch of the split and what the sampler asks for; must pickle.
        num_batches: Batches of an epoch.
    """

    def __init__(
        self, source: SampleSource, build: Callable[[SampleSource, Any], Batch], num_batches: int
    ) -> None:
        self.source, self.build, self.num_batches = source, build, num_batches

    def __getitem__(self, asked: Any) -> Batch | Failure:  # type: ignore[override]
        return in_worker(lambda: self.build(self.source, asked))

    def __len__(self) -> int:
        return self.num_batches


@dataclasses.dataclass(frozen=True)
class TrainBuilder:
    """Encodes a micro-batch; fillers carry no answer tokens.

    Attributes:
        encoder: The backbone's.
        hidden: Fields of a sample that the method must not read.
    """

    encoder: Encoder
    hidden: frozenset[str] = frozenset()

    def __call__(self, source: SampleSource, asked: MicroBatch) -> Batch:
        samples = [source.sample(pick.index, pick.epoch) for pick in asked.picks]
        indices = [pick.index for pick in asked.picks]
        batch = self.encoder.encode(samples, with_answers=True, indices=indices)
        assert batch.answer_mask is not None
        for row, pick in enumerate(asked.picks):
            if not pick.counted:
                batch.answer_mask[row] = False
        found = int(batch.answer_mask.sum())
        if found != asked.tokens:
            # Otherwise the loss of the whole step would be divided by a wrong number, in silence.
            ids = ", ".join(repr(sample.id) for sample in samples)
            raise RuntimeError(
                f"samples {ids} of task {samples[0].task!r} have {found} answer tokens, {asked.tokens} were "
                "measured; the digest of their split or of the encoder misses something that decides them"
            )
        batch = dataclasses.replace(
            batch, step_tokens=asked.step_tokens, step_samples=asked.step_samples, place=asked.place
        )
        return restrict_batch(batch, self.hidden)


@dataclasses.dataclass(frozen=True)
class EvalBuilder:
    """Encodes the prompts of test samples by their positions in the split; attributes as above."""

    encoder: Encoder
    hidden: frozenset[str] = frozenset()

    def __call__(self, source: SampleSource, indices: Sequence[int]) -> Batch:
        samples = [source.sample(index) for index in indices]
        batch = self.encoder.encode(samples, with_answers=False, indices=indices)
        return restrict_batch(batch, self.hidden)


class StageLoader(BatchLoader):
    """A stage's training loader that Lightning can put back to where a checkpoint was written.

    Attributes:
        position: Epoch, and micro-batches of it that were taken, as the trainer counts them; workers have
            fetched further.
    """

    position: Callable[[], tuple[int, int]]

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        epoch, batch = self.position()
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place; takes effect for the next iterator."""
        assert isinstance(self.sampler, TrainBatchSampler)
        self.sampler.set_epoch(state["epoch"], skip=state["batch"])
