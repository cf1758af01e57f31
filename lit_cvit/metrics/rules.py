"""What makes one answer right: prediction and sample to a score from 0 to 1.

The rules that begin with `official_` repeat evaluation scripts, those with `paper_` a paper's words, defects
included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from lit_cvit.metrics.boxes import Box, iou, official_read_box, read_box
from lit_cvit.metrics.letters import hide_option_letter, official_option_letter, option_letter
from lit_cvit.metrics.scored import ScoredSample
from lit_cvit.metrics.text import evalai_normalize, normalize_words, strip_punctuation

_NUM_HUMAN_ANSWERS = 10
_CAPITAL = re.compile("[A-Z]")
_ENOUGH_OVERLAP = Fraction(1, 2)


def letter(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction names the option of the first reference; see `option_letter`.

    Raises:
        ValueError: the reference names no option.
    """
    return float(option_letter(prediction, sample.choices) == _gold_letter(sample))


def letter_or_short(prediction: str, sample: ScoredSample) -> float:
    """`letter` for a question with options, else 1 if the answer is any reference in `short_answer` form.

    Of a sample without choices, a first reference of one capital letter tells that it has options.

    Raises:
        ValueError: the sample has choices, and the reference names none of them.
    """
    if sample.choices or _CAPITAL.fullmatch(sample.answers[0].strip()):
        return letter(prediction, sample)
    predicted = short_answer(prediction)
    return float(any(predicted == short_answer(answer) for answer in sample.answers))


def official_scienceqa(prediction: str, sample: ScoredSample) -> float:
    """1 if the first character that stands alone is the option of the first reference.

    Raises:
        ValueError: the reference names no option.
    """
    return float(official_option_letter(prediction) == _gold_letter(sample))


def official_scienceqa_hide(prediction: str, sample: ScoredSample) -> float:
    """1 if HiDe's script reads the option of the first reference; see `hide_option_letter`.

    Raises:
        ValueError: the reference names no option.
    """
    return float(hide_option_letter(prediction) == _gold_letter(sample))


def short_answer(answer: str) -> str:
    """Return the EvalAI normal form, or the answer in lower case where that form is empty ("a", "?")."""
    # Otherwise a reference of articles or marks alone would equal every empty prediction.
    return evalai_normalize(answer) or answer.strip().lower()


def vqa_soft(prediction: str, sample: ScoredSample) -> float:
    """Agreement with 10 humans after EvalAI normalisation of both sides (TextVQA, VizWiz).

    It is min(1, matches / 3) among the other 9, averaged over which human is left out.

    Raises:
        ValueError: the sample does not have 10 references.
    """
    references = [evalai_normalize(answer) for answer in _human_answers(sample)]
    return _leave_one_out(evalai_normalize(prediction), references)


def official_vqav2(prediction: str, sample: ScoredSample) -> float:
    """Agreement with 10 humans as VQAv2's own tool computes it: normalised only where the humans disagree.

    Raises:
        ValueError: the sample does not have 10 references.
    """
    texts = (prediction, *_human_answers(sample))
    answers = [text.replace("\n", " ").replace("\t", " ").strip() for text in texts]
    if len(set(sample.answers)) > 1:
        answers = [normalize_words(strip_punctuation(answer)) for answer in answers]
    predicted, *references = (answer.lower() for answer in answers)
    return _leave_one_out(predicted, references)


def official_gqa(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction, lower-cased and without final stops, equals the first reference as it stands."""
    return float(prediction.rstrip(".").lower() == sample.answers[0])


def official_ocrvqa(prediction: str, sample: ScoredSample) -> float:
    """1 if equal to the first reference but for case, and without the word "Unanswerable"."""
    return float("Unanswerable" not in prediction and prediction.lower() == sample.answers[0].lower())


def official_substring(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction is part of a reference or a reference part of it, but for case.

    An empty prediction is part of every reference and so always right.
    """
    predicted = prediction.lower()
    return float(any(predicted in answer.lower() or answer.lower() in predicted for answer in sample.answers))


def official_imagenet_coin(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction is part of a reference or a reference part of it; case counts.

    An empty prediction is always right here too.
    """
    return float(any(prediction in answer or answer in prediction for answer in sample.answers))


def official_exact(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction equals the first reference but for case: of ten answers, the scripts have one."""
    return float(prediction.upper() == sample.answers[0].upper())


def paper_hide(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction is part of the first reference but for case (HiDe-LLaVA, 2503.12941, App. G).

    An empty prediction, or one letter of the reference, is always right.
    """
    return float(prediction.upper() in sample.answers[0].upper())


def grounding_iou(prediction: str, sample: ScoredSample) -> float:
    """1 if the prediction is a box whose IoU with the first reference is above 0.5, else 0; see `read_box`.

    Raises:
        ValueError: the reference is no box.
    """
    return _overlaps(read_box(prediction), sample)


def official_grounding(prediction: str, sample: ScoredSample) -> float:
    """As `grounding_iou`, but the prediction is read as the published script does; see `official_read_box`.

    Raises:
        ValueError: the reference is no box.
    """
    return _overlaps(official_read_box(prediction), sample)


def require_area(sample: ScoredSample) -> None:
    """Refuse a first reference that no box overlaps with.

    Raises:
        ValueError: it is no box, or one without area, or with its edges the wrong way round.
    """
    left, top, right, bottom = _gold_box(sample)
    if left >= right or top >= bottom:
        raise ValueError(
            f"the reference box {sample.answers[0]!r} has no area, so that no prediction can be right; a box "
            "is [x1, y1, x2, y2] with x1 < x2 and y1 < y2, not corner, width and height"
        )


def _overlaps(box: Box | None, sample: ScoredSample) -> float:
    gold = _gold_box(sample)
    return float(box is not None and iou(box, gold) > _ENOUGH_OVERLAP)


def _gold_box(sample: ScoredSample) -> Box:
    gold = read_box(sample.answers[0])
    if gold is None:
        raise ValueError(f"the reference answer {sample.answers[0]!r} is no box of four numbers")
    return gold


def _gold_letter(sample: ScoredSample) -> str:
    gold = option_letter(sample.answers[0], sample.choices)
    if gold is None:
        allowed = f"one of its {len(sample.choices)} choices" if sample.choices else "an option letter"
        raise ValueError(f"the reference answer {sample.answers[0]!r} is not {allowed}")
    return gold


def _human_answers(sample: ScoredSample) -> tuple[str, ...]:
    if len(sample.answers) != _NUM_HUMAN_ANSWERS:
        raise ValueError(
            f"soft accuracy needs {_NUM_HUMAN_ANSWERS} human answers, got {len(sample.answers)}; "
            "the scorer 'short_answer' takes any number"
        )
    return sample.answers


def _leave_one_out(answer: str, references: Sequence[str]) -> float:
    same = sum(reference == answer for reference in references)
    if_same_left_out = min(1.0, (same - 1) / 3)
    if_other_left_out = min(1.0, same / 3)
    return (same * if_same_left_out + (len(references) - same) * if_other_left_out) / len(references)
