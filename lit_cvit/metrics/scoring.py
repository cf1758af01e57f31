"""Scores of predicted answers: one number per sample, and the score of the split that a task reports.

Every scorer sees a whole split at once, because corpus metrics (CIDEr, BLEU) need every row: document
frequencies and pooled counts are no sums over batches. So scorers are plain, picklable values and no
`torchmetrics.Metric`s; those take their percentages (`lit_cvit.metrics.continual_metric`).
`scorer("letter")` returns the ones that need no further setting; `ExactContent` takes a vocabulary. Names
that begin with `official_` repeat the rule of the script behind published numbers, those with `paper_` the
rule that a paper states where its script has another, defects included; the others are what a careful reader
would call right. docs/scorers.md has all of them in one table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lit_cvit.metrics import general, rules, text
from lit_cvit.metrics.bleu import Bleu
from lit_cvit.metrics.caption_means import mean_of_seven, mean_of_six
from lit_cvit.metrics.captions import best_reference_cider, cider, raw_cider
from lit_cvit.metrics.content import Content, read_content
from lit_cvit.metrics.meteor import check_meteor, meteor
from lit_cvit.metrics.rouge import rouge_l
from lit_cvit.metrics.scored import Scored, ScoredSample, mean_of_samples
from lit_cvit.utils.suggest import unknown


class Scorer(Protocol):
    """Scores the predictions of one task."""

    @property
    def name(self) -> str:
        """Short name, as in tables and in `scorer(name)`."""
        ...

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        """Return one score per sample, in the order of the samples.

        Raises:
            ValueError: the two sequences differ in length, or a sample cannot be scored.
        """
        ...

    def score(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> Scored:
        """Return the scores of the samples and that of the whole split, which is the task's.

        Raises:
            ValueError: as above.
        """
        ...

    def check(self, sample: ScoredSample) -> None:
        """Refuse a sample whose score would say nothing; takes no longer than scoring it.

        It is one that no prediction can be scored on or be right on, or on which an empty one is right.

        Raises:
            ValueError: its references are not what this scorer compares with.
        """
        ...


class MeanScorer:
    """Base of the scorers whose score of a split is 100 times the mean over its samples."""

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        """Return one score per sample, in the order of the samples; see `Scorer`."""
        raise NotImplementedError

    def score(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> Scored:
        """Return the scores of the samples and 100 times their mean; see `Scorer`."""
        return mean_of_samples(self(predictions, samples))

    def check(self, sample: ScoredSample) -> None:
        """Refuse a sample with a blank reference; see `Scorer`."""
        _refuse_blank(sample.answers)


@dataclass(frozen=True)
class SampleScorer(MeanScorer):
    """A scorer that looks at one sample at a time.

    Attributes:
        name: Its name.
        rule: Prediction and sample to a score from 0 to 1; a module-level function, so that it pickles.
        decisive: How many references, from the first, can each make a prediction right; None: all.
        needs: Refuses a sample on which no prediction is right with a ValueError; a module-level function.
    """

    name: str
    rule: Callable[[str, ScoredSample], float]
    decisive: int | None = None
    needs: Callable[[ScoredSample], None] | None = None

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        _check(self.name, predictions, samples)
        return [self._score(index, predictions[index], sample) for index, sample in enumerate(samples)]

    def check(self, sample: ScoredSample) -> None:
        """Refuse a sample that cannot be scored, or has a blank decisive reference; see `Scorer`."""
        self.rule("", sample)
        _refuse_blank(sample.answers[: self.decisive])
        if self.needs is not None:
            self.needs(sample)

    def _score(self, index: int, prediction: str, sample: ScoredSample) -> float:
        try:
            return self.rule(prediction, sample)
        except ValueError as error:
            raise ValueError(f"scorer {self.name!r}, sample {index}: {error}") from error


@dataclass(frozen=True)
class MatchScorer(MeanScorer):
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
class CorpusScorer(MeanScorer):
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
class PooledScorer:
    """A scorer whose score of a split is no mean over samples, because counts are pooled first.

    Attributes:
        name: Its name.
        metric: Predictions and their references to the scores; a module-level function or a value.
        needs: Refuses the scorer with a ValueError where something that it needs is not installed.
    """

    name: str
    metric: Callable[[Sequence[str], Sequence[Sequence[str]]], Scored]
    needs: Callable[[], None] | None = None

    def __call__(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> list[float]:
        return self.score(predictions, samples).samples

    def score(self, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> Scored:
        """Return the scores of the samples and that of the pooled counts; see `Scorer`."""
        _check(self.name, predictions, samples)
        return self.metric(predictions, [sample.answers for sample in samples])

    def check(self, sample: ScoredSample) -> None:
        """Refuse a sample with a blank reference; see `Scorer`."""
        _refuse_blank(sample.answers)


@dataclass(frozen=True)
class ExactContent(MeanScorer):
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

    def check(self, sample: ScoredSample) -> None:
        """Refuse a sample whose reference states no objects; see `Scorer`."""
        self._reference(sample)

    def _read(self, caption: str) -> Content | None:
        return read_content(caption, colours=self.colours, shapes=self.shapes, places=self.places)

    def _reference(self, sample: ScoredSample) -> Content:
        content = self._read(sample.answers[0])
        if not content:
            raise ValueError(
                f"cannot read objects out of the reference {sample.answers[0]!r} "
                f"with colours {self.colours}, shapes {self.shapes}, places {self.places}"
            )
        return content


def _refuse_blank(references: Sequence[str]) -> None:
    for reference in references:
        if not reference.strip():
            # An empty prediction would be right, or any one that a reference is looked for in.
            fix = "remove it from the record"
            raise ValueError(f"the reference answer {reference!r} has nothing to compare with; {fix}")


def _check(name: str, predictions: Sequence[str], samples: Sequence[ScoredSample]) -> None:
    if len(predictions) != len(samples):
        raise ValueError(f"scorer {name!r} got {len(predictions)} predictions for {len(samples)} samples")
    for index, sample in enumerate(samples):
        if not sample.answers:
            raise ValueError(f"scorer {name!r}: sample {index} has no reference answer")


SCORERS: tuple[Scorer, ...] = (
    # The option letter, however it is wrapped; see `option_letter`.
    SampleScorer("letter", rules.letter),
    # The same where there are options, the EvalAI normal form where there are none (IconQA).
    SampleScorer("letter_or_short", rules.letter_or_short),
    # The EvalAI normal form of any reference.
    MatchScorer("short_answer", rules.short_answer),
    # Any reference, but for case and one final full stop.
    MatchScorer("exact", text.plain),
    # Any reference as a class name. Not the official substring in either direction: that calls an empty
    # answer, and a single letter, right for almost every class.
    MatchScorer("class_name", text.class_name),
    # Agreement with 10 human answers after EvalAI normalisation (TextVQA, VizWiz).
    SampleScorer("vqa_soft", rules.vqa_soft, 0),
    # A box whose IoU with the reference is above 0.5 (Grounding: RefCOCO, RefCOCO+, RefCOCOg).
    SampleScorer("grounding_iou", rules.grounding_iou, 1, rules.require_area),
    # CIDEr-D over PTB tokens, all references.
    CorpusScorer("cider", cider),
    # The other caption metrics of the COCO tools, all references.
    PooledScorer("bleu_1", Bleu(1)),
    PooledScorer("bleu_2", Bleu(2)),
    PooledScorer("bleu_3", Bleu(3)),
    PooledScorer("bleu_4", Bleu(4)),
    CorpusScorer("rouge_l", rouge_l),
    PooledScorer("meteor", meteor, check_meteor),
    # BLEU-1 to BLEU-4, ROUGE-L and CIDEr: what is left of HiDe's mean of seven without METEOR.
    PooledScorer("mean_of_six", mean_of_six),
    # ScienceQA (SMoLoRA, CoIN, LCIA): the first character that stands alone.
    SampleScorer("official_scienceqa", rules.official_scienceqa),
    # ScienceQA (HiDe): the letter alone, "B. ..." or one "The answer is B."
    SampleScorer("official_scienceqa_hide", rules.official_scienceqa_hide),
    # VQAv2, VizWiz (SMoLoRA, HiDe) and the single-answer tasks of UCIT: equal but for case.
    SampleScorer("official_exact", rules.official_exact, 1),
    # VQAv2 by its own evaluation tool, on 10 human answers.
    SampleScorer("official_vqav2", rules.official_vqav2, 0),
    # GQA (SMoLoRA, HiDe): lower-cased without final stops, against the raw reference.
    SampleScorer("official_gqa", rules.official_gqa, 1),
    # OCR-VQA (SMoLoRA, HiDe): equal but for case, never if it says "Unanswerable".
    SampleScorer("official_ocrvqa", rules.official_ocrvqa, 1),
    # ImageNet, Places365 (SMoLoRA): substring in either direction, but for case.
    SampleScorer("official_substring", rules.official_substring),
    # ImageNet (CoIN, LCIA, HiDe): the same, and case counts.
    SampleScorer("official_imagenet_coin", rules.official_imagenet_coin),
    # Grounding (CoIN, LCIA, HiDe): the box loses its first and its last character; see `official_read_box`.
    SampleScorer("official_grounding", rules.official_grounding, 1, rules.require_area),
    # POPE (POPE, LLaVA): what does not deny says yes.
    SampleScorer("official_pope", general.official_pope),
    # MME: yes or no in the first four characters.
    SampleScorer("official_mme", general.official_mme),
    # Flickr30k (SMoLoRA): CIDEr with the best single reference; see `best_reference_cider`.
    CorpusScorer("official_flickr30k", best_reference_cider),
    # TextCaps (SMoLoRA): CIDEr over what white space separates, all references.
    CorpusScorer("official_textcaps", raw_cider),
    # VizWiz-cap, Flickr30k (HiDe, MCITlib): the mean of BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr.
    PooledScorer("mean_of_seven", mean_of_seven, check_meteor),
    # Single-answer tasks as HiDe's paper states it: the prediction is part of the reference, but for case.
    SampleScorer("paper_hide", rules.paper_hide, 1),
)
"""Every scorer that needs no setting."""


def scorer(name: str) -> Scorer:
    """Return the scorer of `SCORERS` called `name`.

    Raises:
        ValueError: no scorer has that name (names the nearest one and lists all), or what it needs is not
            installed: better now than after hours of training.
    """
    known = {each.name: each for each in SCORERS}
    if name not in known:
        raise ValueError(unknown("scorer", name, known))
    found = known[name]
    if isinstance(found, PooledScorer) and found.needs is not None:
        try:
            found.needs()
        except ValueError as error:
            raise ValueError(f"scorer {name!r}: {error}") from error
    return found
