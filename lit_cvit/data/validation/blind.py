"""Test splits on which a scorer says nothing: it gives 0 whatever is answered, or whatever was learned."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from lit_cvit.data.tasks import ImageSource, Sample, SizedImage
from lit_cvit.metrics.boxes import read_box
from lit_cvit.metrics.scoring import Scorer

_WORD = re.compile(r"\w+")
_WHOLE_SIDE = Fraction(11, 10)
_TURNED_SHARE = Fraction(1, 4)
_SMALL, _FEW_FRAMED, _MOST_FRAMED = 900, 4, 256


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
    """In which convention the boxes of a task are written: parts of the image's sides, or pixels; corners.

    Boxes of 0 to 1000, as Qwen-VL writes them, are told from pixels where images are small: many lie outside.
    """

    def __init__(self) -> None:
        self._framed: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
        self._units: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
        self._turned = 0

    def add(self, split: str, sample: Sample) -> None:
        """Look at the box of the next sample; an answer that is none says nothing."""
        if (box := read_box(sample.answers[0])) is None:
            return
        self._turned += split == "train" and (box[0] >= box[2] or box[1] >= box[3])
        # Rounding leaves edges a little beyond the image.
        if max(box) <= _WHOLE_SIDE:
            self._units[split]["from 0 to 1"] += 1
            return
        self._units[split]["beyond 1"] += 1
        framed = self._framed[split]
        if framed.total() < _MOST_FRAMED and (size := _small_size(sample.image)) is not None:
            within = all(edge <= _WHOLE_SIDE * side for edge, side in zip(box[2:], size, strict=True))
            framed["within" if within else "outside"] += 1

    def turned(self) -> str:
        """What to say if too many training boxes have their edges the wrong way round; empty otherwise."""
        total = self._units["train"].total()
        if self._turned <= _TURNED_SHARE * total:
            return ""
        return (
            f"{self._turned} of {total} training boxes have no area; a box is [x1, y1, x2, y2] with x1 < x2 "
            "and y1 < y2, not corner, width and height"
        )

    def differ(self) -> str:
        """What to say if test boxes are in other units than most training boxes; empty otherwise."""
        learned, tested = self._units["train"], self._units["test"]
        if not learned or not tested:
            return ""
        units = tested.most_common(1)[0][0]
        if 2 * learned[units] >= learned.total():
            return ""
        return (
            f"{tested[units]} of {tested.total()} test boxes have edges {units}, but {learned[units]} of "
            f"{learned.total()} training boxes, so that what is learned cannot be right; write all boxes in "
            "one convention"
        )

    def scales_differ(self) -> str:
        """What to say if the boxes of one split lie in their images, and most of the other do not."""
        for name, other in (("train", "test"), ("test", "train")):
            found, against = self._framed[name], self._framed[other]
            if 2 * found["outside"] > found.total() and against["within"] == against.total() >= _FEW_FRAMED:
                return (
                    f"{found['outside']} of {found.total()} {name} boxes lie outside their images, and no "
                    f"{other} box does, as if one were pixels and the other 0 to 1000; write all boxes in "
                    "one convention"
                )
        return ""


def _small_size(image: ImageSource | None) -> tuple[int, int] | None:
    """Width and height of an image in which boxes of 0 to 1000 would often lie outside; None of others."""
    if not isinstance(image, SizedImage):
        return None
    try:
        size = image.size()
    except ValueError:
        return None
    return size if max(size) < _SMALL else None
