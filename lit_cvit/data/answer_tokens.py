"""Answer tokens of training rows, measured once: the sampler divides the loss of a step by their sum.

A split is measured when a stage first needs it, by rank 0, and kept in the run folder, so that the other
ranks and a resumed run do not tokenise it again. Rows that come back in a later stage, and the union of all
tasks, are parts of splits and never measured themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_cvit.data.measured import Measured, name_with_digest
from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.stage import UnionSource
from lit_cvit.data.tasks import Encoder, SampleSource

_CHUNK = 1024


class AnswerTokens:
    """Answer tokens of every row of a split, as the loss counts them.

    Args:
        encoder: The encoder of the backbone.
        measured: Where the counts are looked up, and put.
    """

    def __init__(self, encoder: Encoder, measured: Measured) -> None:
        self.encoder, self.measured = encoder, measured

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
        name = name_with_digest("answer_tokens", source.digest(), self.encoder.digest(), str(epoch))
        return self.measured.values(name, lambda: counted(source, self.encoder, epoch))


def counted(source: SampleSource, encoder: Encoder, epoch: int = 0) -> list[int]:
    """Go through a split once and count the answer tokens of each row.

    Raises:
        ValueError: a record is bad, or has an answer that cannot be learned; names it.
    """
    counts: list[int] = []
    for start in range(0, len(source), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source)))
        counts += encoder.answer_tokens([source.sample(row, epoch) for row in rows])
    return counts
