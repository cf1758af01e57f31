"""Passes over training samples at the end of a stage, which the ranks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lit_cvit.data.tasks import Batch, SampleSource
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.utils.distributed import num_ranks, rank


def dealt_batches(
    method: ContinualMethod, source: SampleSource, rows: Sequence[int], *, group: int = 1
) -> Iterator[tuple[int, Batch]]:
    """This rank's batches of some samples, with answers and in their first wording, on the method's device.

    All ranks must take theirs at the same point, and communicate nothing before they have taken all.

    Args:
        method: The method.
        source: Training samples.
        rows: Which of them; cut into batches in this order, which are dealt to the ranks in turn.
        group: Samples of a batch; the last one may be smaller.

    Yields:
        A batch and its number, from 0, over all ranks.
    """
    starts = range(0, len(rows), group)
    with method.backbone.in_lockstep():
        for number in range(rank(), len(starts), num_ranks()):
            samples = [source.sample(row) for row in rows[starts[number] : starts[number] + group]]
            yield number, method.backbone.encode(samples, with_answers=True).to(method.device)
