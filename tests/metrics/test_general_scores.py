"""The figures of POPE, MME, MMBench and SEED-Bench: by hand, and against transcriptions of the scripts."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from lit_cvit.metrics import general
from lit_cvit.metrics.scoring import scorer

Row = dict[str, Any]


class Asked:
    """A sample as scorers see it."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.choices: tuple[str, ...] = ()


def rows_of(scorer_name: str, asked: list[tuple[str, str, str]]) -> list[Row]:
    """Rows of (id, text, reference), scored."""
    samples = [Asked(reference) for _, _, reference in asked]
    scores = scorer(scorer_name)([text for _, text, _ in asked], samples)
    return [
        {"id": name, "text": text, "references": [reference], "score": score}
        for (name, text, reference), score in zip(asked, scores, strict=True)
    ]


# -- reading answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pope", "mme"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("No, there is a dog.", "no", "no"),
        (" No.", "no", "no"),
        ("There is not one. Yes", "no", None),
        ("Yes. No", "yes", "yes"),
        ("NO", "yes", "no"),
        ("nothing", "yes", "no"),
        ("a dog on grass", "yes", None),
        ("", "yes", None),
        ("Eyes", "yes", "yes"),
        ("The answer is no", "no", None),
    ],
)
def test_an_answer_is_read_as_the_owners_scripts_read_it(text: str, pope: str, mme: str | None) -> None:
    assert (general.official_pope_answer(text), general.official_mme_answer(text)) == (pope, mme)


def test_scorers_compare_the_reading_with_the_reference_in_any_case() -> None:
    texts, samples = ["no", "a dog", "a dog"], [Asked("no"), Asked("yes"), Asked("no")]
    assert scorer("official_pope")(texts, samples) == [1.0, 1.0, 0.0]
    assert scorer("official_mme")(["Yes", "No", "dog"], [Asked("Yes"), Asked("No"), Asked("No")]) == [1, 1, 0]


# -- by hand ------------------------------------------------------------------------------------------------


def test_pope_has_the_mean_over_subsets_of_the_figures_of_detection() -> None:
    asked = [
        *(("random/1", "yes", "yes"), ("random/2", "yes", "yes"), ("random/3", "no", "no")),
        *(("random/4", "yes", "no"), ("popular/1", "no", "yes"), ("popular/2", "a cat", "no")),
        *(("popular/3", "Yes", "yes"), ("popular/4", "No", "no")),
    ]
    figures = general.pope(rows_of("official_pope", asked))
    # random: 2 hits of 3 yes and 2 true; popular: 1 hit of 2 yes and 2 true.
    expected: dict[str, dict[str, float]] = {
        "random": {"f1": 80, "accuracy": 75, "precision": 200 / 3, "recall": 100, "yes_ratio": 75},
        "popular": {"f1": 50, "accuracy": 50, "precision": 50, "recall": 50, "yes_ratio": 50},
    }
    for subset, values in expected.items():
        assert {name: figures[f"{subset}/{name}"] for name in values} == pytest.approx(values)
    for name in expected["random"]:
        assert figures[name] == pytest.approx((expected["random"][name] + expected["popular"][name]) / 2)
    assert figures["unread"] == 100 / 8


def test_pope_of_a_model_that_always_denies_is_zero_and_not_an_error() -> None:
    figures = general.pope(rows_of("official_pope", [("random/1", "no", "yes"), ("random/2", "no", "no")]))
    assert [figures[name] for name in ("f1", "precision", "recall", "accuracy")] == [0, 0, 0, 50]


def test_mme_adds_accuracy_and_accuracy_of_pairs_and_sums_categories() -> None:
    asked = [
        *(("existence/a.jpg/1", "Yes", "yes"), ("existence/a.jpg/2", "No", "no")),
        *(("existence/b.jpg/1", "Yes", "yes"), ("existence/b.jpg/2", "Yes", "no")),
        *(("OCR/a.jpg/1", "dog", "yes"), ("OCR/a.jpg/2", "no", "no")),
        *(("code_reasoning/a.png/1", "yes", "yes"), ("code_reasoning/a.png/2", "no", "no")),
    ]
    assert general.mme(rows_of("official_mme", asked)) == {
        "perception": 75 + 50 + 50,
        "cognition": 200,
        "unread": 12.5,
        "perception/existence": 125,
        "perception/OCR": 50,
        "cognition/code_reasoning": 200,
    }


def test_mmbench_counts_a_question_if_all_its_rotations_are_right() -> None:
    right = {"coarse/scene/1/0": 1, "coarse/scene/1/1": 1, "coarse/style/2/0": 1, "coarse/style/2/1": 0}
    right |= {"fine/ocr/3/0": 1, "fine/ocr/3/1": 1, "fine/ocr/3/2": 1, "fine/ocr/4/0": 0, "fine/ocr/4/1": 1}
    assert general.mmbench([{"id": name, "score": float(score)} for name, score in right.items()]) == {
        "circular": 50,
        "vanilla": 75,
        "circular/coarse": 50,
        "circular/fine": 50,
        "circular/coarse/scene": 100,
        "circular/coarse/style": 0,
        "circular/fine/ocr": 50,
    }


def test_seed_bench_has_the_accuracy_of_each_type() -> None:
    scores = {"Scene Understanding/1": 1, "Scene Understanding/2": 0, "Text/3": 1}
    figures = general.seed_bench([{"id": name, "score": float(score)} for name, score in scores.items()])
    assert figures == {"accuracy/Scene Understanding": 50, "accuracy/Text": 100}


# -- against transcriptions ---------------------------------------------------------------------------------

_TEXTS = ("yes", "no", "Yes", "No", "No, it is a cat.", "a cat", "not here", "Yes. No", "")


def _confusion(texts: list[str], labels: list[str]) -> dict[str, float]:
    """The steps of LLaVA's eval_pope.py, in counts of a confusion matrix."""
    count: dict[tuple[bool, bool], int] = defaultdict(int)
    for text, label in zip(texts, labels, strict=True):
        sentence = text.split(".")[0] if "." in text else text
        words = sentence.replace(",", "").split(" ")
        denies = "No" in words or "not" in words or "no" in words
        count[(not denies, label != "no")] += 1
    tp, fp, tn, fn = count[True, True], count[True, False], count[False, False], count[False, True]
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "accuracy": (tp + tn) / (tp + fp + tn + fn),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": (tp + fp) / (tp + fp + tn + fn),
    }


@pytest.mark.parametrize("seed", range(5))
def test_pope_agrees_with_a_transcription_of_llavas_script(seed: int) -> None:
    draw = random.Random(seed)
    asked = [
        (f"{subset}/{number}", draw.choice(_TEXTS), draw.choice(("yes", "no")))
        for subset in ("random", "popular", "adversarial")
        for number in range(60)
    ]
    figures = general.pope(rows_of("official_pope", asked))
    parts = []
    for subset in ("random", "popular", "adversarial"):
        own = [each for each in asked if each[0].startswith(subset)]
        parts.append(_confusion([text for _, text, _ in own], [label for _, _, label in own]))
        for name, value in parts[-1].items():
            assert figures[f"{subset}/{name}"] == pytest.approx(100 * value)
    assert figures["f1"] == pytest.approx(100 * sum(part["f1"] for part in parts) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_mme_agrees_with_a_transcription_of_its_tool(seed: int) -> None:
    draw = random.Random(seed)
    asked = []
    totals = {"perception": 0.0, "cognition": 0.0}
    for ability, categories in general.MME_CATEGORIES.items():
        for category in categories:
            lines = [(draw.choice(_TEXTS), label) for _ in range(6) for label in ("Yes", "No")]
            num_right = num_pairs = 0
            # The tool takes the lines two by two.
            for start in range(0, len(lines), 2):
                pair_right = 0
                for text, label in lines[start : start + 2]:
                    reported = text.lower()
                    if reported not in ("yes", "no"):
                        reported = (
                            "yes" if "yes" in reported[:4] else "no" if "no" in reported[:4] else "other"
                        )
                    pair_right += reported == label.lower()
                num_right += pair_right
                num_pairs += pair_right == 2
            totals[ability] += 100 * num_right / len(lines) + 100 * num_pairs / (len(lines) / 2)
            asked += [(f"{category}/{n // 2}.jpg/{n % 2}", *line) for n, line in enumerate(lines)]
    figures = general.mme(rows_of("official_mme", asked))
    assert {name: figures[name] for name in totals} == pytest.approx(totals)
