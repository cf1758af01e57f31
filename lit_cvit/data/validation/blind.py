"""Test splits on which a scorer says nothing: it gives 0 whatever is answered, or whatever was learned."""

from __future__ import annotations

import re

from lit_cvit.data.tasks import Sample
from lit_cvit.metrics.boxes import read_box
from lit_cvit.metrics.scoring import Scorer

_WORD = re.compile(r"\w+")


class AlikeReferences:
    """The samples of a test split, for as long as all of them have the same words in their references.

    CIDEr weighs a word by how few samples have it, so one that all of them have weighs nothing: a split of
    one sample scores 0. A split in which two samples differ in a word is not kept.
    """

    def __init__(self) -> None:
        self._words: frozenset[str] | None = None
        self._samples: list[Sample] | None = []

    def add(self, sample: Sample) -> None:
        """Look at the next sample."""
        if self._samples is None:
            return
        words = frozenset(_WORD.findall(" ".join(sample.answers).casefold()))
        self._words = words if self._words is None else self._words
        if words == self._words:
            self._samples.append(sample)
        else:
            self._samples = None

    def warning(self, scorer: Scorer) -> str:
        """What to say if the scorer gives 0 even to the references themselves; empty otherwise."""
        if not self._samples:
            return ""
        for rank in range(max(len(sample.answers) for sample in self._samples)):
            answers = [sample.answers[min(rank, len(sample.answers) - 1)] for sample in self._samples]
            if scorer.score(answers, self._samples).percent > 0:
                return ""
        why = "it has one sample" if len(self._samples) == 1 else "all its samples have the same words"
        return (
            f"scorer {scorer.name!r} gives 0 on the test split whatever is answered, as {why}; add samples "
            "that differ, or take a scorer that looks at one sample at a time, such as 'rouge_l'"
        )


class BoxUnits:
    """Whether the boxes of a task are parts of the image's sides, from 0 to 1, or pixels."""

    def __init__(self) -> None:
        self._found: dict[str, set[str]] = {"train": set(), "test": set()}

    def add(self, split: str, answer: str) -> None:
        """Look at the next box; an answer that is none says nothing."""
        if (box := read_box(answer)) is not None:
            self._found[split].add("from 0 to 1" if max(box) <= 1 else "beyond 1")

    def problem(self) -> str:
        """What to say if no test box is in the units of any training box; empty otherwise."""
        learned, tested = self._found["train"], self._found["test"]
        if not learned or not tested or learned & tested:
            return ""
        return (
            f"every test box has edges {tested.copy().pop()}, every training box {learned.copy().pop()}, so "
            "that what is learned cannot be right; write all boxes in one convention"
        )
