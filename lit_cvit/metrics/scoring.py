"""Scores of predicted answers: one number per sample, whose mean times 100 is the score of a task.

Every scorer sees a whole split at once, because corpus metrics (CIDEr) need every row. Scorers are plain,
picklable values. `scorer("letter")` returns the ones that need no further setting; `ExactContent` takes a
vocabulary. Names that begin with `official_` repeat the rule of the script behind published numbers,
defects included; the others are what a careful reader would call right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lit_cvit.metrics import rules, text
from lit_cvit.metrics.captions import best_reference_cider, cider, raw_cider
from lit_cvit.metrics.content import Content, read_content
from lit_cvit.metrics.names import unknown_name


class ScoredSample(Protocol):
    """What a scorer reads of a sample."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Reference answers, at least one."""
        ...

    @property
    def choices(self) -> tuple[str, ...]:
        """Options of a multiple-choice question in letter order; empty for other questions."""
        ...


class Scorer(Protocol):
    """Scores the predictions of one task."""

    @property
    def name(self) -> str:
        """Short name, as in tables and in `scorer(name)`."""
        ...

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        """Return one score per sample, in the order of the samples; the task's score is 100 times their mean.

        Raises:
            ValueError: the two sequences differ in length, or a sample cannot be scored.
        """
        ...


@dataclass(frozen=True)
class SampleScorer:
    """A scorer that looks at one sample at a time.

    Attributes:
        name: Its name.
        rule: Prediction and sample to a score from 0 to 1; a module-level function, so that it pickles.
    """

    name: str
    rule: Callable[[str, ScoredSample], float]

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        _check(self.name, predictions, samples)
        return [self._score(index, predictions[index], sample) for index, sample in enumerate(samples)]

    def _score(self, index: int, prediction: str, sample: ScoredSample) -> float:
        try:
            return self.rule(prediction, sample)
        except ValueError as error:
            raise ValueError(f"scorer {self.name!r}, sample {index}: {error}") from error


@dataclass(frozen=True)
class MatchScorer:
    """1 if the prediction equals any reference after a normalisation, else 0.

    Attributes:
        name: Its name.
        normalize: Text to its normal form; a module-level function, so that it pickles.
    """

    name: str
    normalize: Callable[[str], str]

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        _check(self.name, predictions, samples)
        return [
            float(self.normalize(prediction) in map(self.normalize, sample.answers))
            for prediction, sample in zip(predictions, samples, strict=True)
        ]


@dataclass(frozen=True)
class CorpusScorer:
    """A scorer whose per-sample scores depend on the whole split.

    Attributes:
        name: Its name.
        metric: Predictions and their references to one score per sample; a module-level function.
    """

    name: str
    metric: Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        _check(self.name, predictions, samples)
        return self.metric(predictions, [sample.answers for sample in samples])


@dataclass(frozen=True)
class ExactContent:
    """1 if a caption states exactly the objects of the first reference, in any order and wording, else 0.

    See `read_content` for how a caption is read. All references of a sample carry the same content.

    Attributes:
        colours: Names of the colours.
        shapes: Names of the shapes.
        places: Names of the places.
        name: Its name.
    """

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    places: tuple[str, ...]
    name: str = "exact_content"

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        _check(self.name, predictions, samples)
        return [
            float(self._read(prediction) == self._reference(sample))
            for prediction, sample in zip(predictions, samples, strict=True)
        ]

    def _read(self, caption: str) -> Content | None:
        return read_content(caption, colours=self.colours, shapes=self.shapes, places=self.places)

    def _reference(self, sample: ScoredSample) -> Content:
        content = self._read(sample.answers[0])
        if not content:
            raise ValueError(
                f"scorer {self.name!r} cannot read objects out of the reference {sample.answers[0]!r} "
                f"with colours {self.colours}, shapes {self.shapes}, places {self.places}"
            )
        return content


def _check(name: str, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> None:
    if len(predictions) != len(samples):
        raise ValueError(f"scorer {name!r} got {len(predictions)} predictions for {len(samples)} samples")
    for index, sample in enumerate(samples):
        if not sample.answers:
            raise ValueError(f"scorer {name!r}: sample {index} has no reference answer")


SCORERS: tuple[Scorer, ...] = (
    # The option letter, however it is wrapped; see `option_letter`.
    SampleScorer("letter", rules.letter),
    # The EvalAI normal form of any reference.
    MatchScorer("short_answer", rules.short_answer),
    # Any reference, but for case and one final full stop.
    MatchScorer("exact", text.plain),
    # Any reference as a class name. Not the official substring in either direction: that calls an empty
    # answer, and a single letter, right for almost every class.
    MatchScorer("class_name", text.class_name),
    # Agreement with 10 human answers after EvalAI normalisation (TextVQA, VizWiz).
    SampleScorer("vqa_soft", rules.vqa_soft),
    # A box whose IoU with the reference is above 0.5 (Grounding: RefCOCO, RefCOCO+, RefCOCOg).
    SampleScorer("grounding_iou", rules.grounding_iou),
    # CIDEr-D over PTB tokens, all references.
    CorpusScorer("cider", cider),
    # ScienceQA (SMoLoRA, CoIN, LCIA): the first character that stands alone.
    SampleScorer("official_scienceqa", rules.official_scienceqa),
    # VQAv2, VizWiz (SMoLoRA, HiDe) and the single-answer tasks of UCIT: equal but for case.
    MatchScorer("official_exact", str.upper),
    # VQAv2 by its own evaluation tool, on 10 human answers.
    SampleScorer("official_vqav2", rules.official_vqav2),
    # GQA (SMoLoRA, HiDe): lower-cased without final stops, against the raw reference.
    SampleScorer("official_gqa", rules.official_gqa),
    # OCR-VQA (SMoLoRA, HiDe): equal but for case, never if it says "Unanswerable".
    SampleScorer("official_ocrvqa", rules.official_ocrvqa),
    # ImageNet, Places365 (SMoLoRA): substring in either direction, but for case.
    SampleScorer("official_substring", rules.official_substring),
    # Grounding (CoIN, LCIA, HiDe): the box loses its first and its last character; see `official_read_box`.
    SampleScorer("official_grounding", rules.official_grounding),
    # Flickr30k (SMoLoRA): CIDEr with the best single reference; see `best_reference_cider`.
    CorpusScorer("official_flickr30k", best_reference_cider),
    # TextCaps (SMoLoRA): CIDEr over what white space separates, all references.
    CorpusScorer("official_textcaps", raw_cider),
)
"""Every scorer that needs no setting."""


def scorer(name: str) -> Scorer:
    """Return the scorer of `SCORERS` called `name`.

    Raises:
        ValueError: no scorer has that name; names the nearest one and lists all.
    """
    known = {each.name: each for each in SCORERS}
    if name not in known:
        raise unknown_name("scorer", name, known)
    return known[name]
