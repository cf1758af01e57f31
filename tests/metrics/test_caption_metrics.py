"""BLEU, ROUGE-L and the means of metrics against the COCO caption tools (captions_SOURCE.md), and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from metrics_kit import Answered, golden
from torchmetrics.functional.text import bleu_score

from lit_cvit.metrics import caption_means
from lit_cvit.metrics.bleu import Bleu
from lit_cvit.metrics.caption_means import mean_of_seven, mean_of_six
from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.rouge import rouge_l
from lit_cvit.metrics.scored import Scored
from lit_cvit.metrics.scoring import scorer

COCO = {name: golden(f"caption_coco_{name}") for name in ("main", "varrefs")}
CORPORA: dict[str, dict[str, Any]] = {
    **COCO,
    **{f"tiny{at}": corpus for at, corpus in enumerate(golden("caption_coco_tiny")["corpora"])},
}
NAMES = {
    "bleu_1": "Bleu_1",
    "bleu_2": "Bleu_2",
    "bleu_3": "Bleu_3",
    "bleu_4": "Bleu_4",
    "rouge_l": "ROUGE_L",
    "cider": "CIDEr",
}
SIX = list(NAMES.values())


def split(name: str) -> tuple[list[str], list[list[str]]]:
    cases = CORPORA[name]["cases"]
    return [case["prediction"] for case in cases], [case["references"] for case in cases]


def recorded_meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    main = COCO["main"]
    assert list(predictions) == [case["prediction"] for case in main["cases"]]
    return Scored([case["scores"]["METEOR"] for case in main["cases"]], 100 * main["corpus"]["METEOR"])


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_coco_tools(name: str, corpus: str) -> None:
    predictions, references = split(corpus)
    scored = scorer(name).score(predictions, [Answered(tuple(each)) for each in references])
    recorded = [case["scores"][NAMES[name]] for case in CORPORA[corpus]["cases"]]
    assert scored.samples == pytest.approx(recorded, abs=1e-6)
    assert scored.percent / 100 == pytest.approx(CORPORA[corpus]["corpus"][NAMES[name]], abs=1e-6)


@pytest.mark.parametrize("corpus", COCO)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_a_split_is_that_of_torchmetrics(order: int, corpus: str) -> None:
    predictions, references = split(corpus)
    reported = [" ".join(ptb_tokenize(each)) for each in predictions]
    meant = [[" ".join(ptb_tokenize(each)) for each in captions] for captions in references]
    # torchmetrics takes the first of two equally close references, the tools take the shorter.
    meant = [sorted(captions, key=lambda caption: len(caption.split())) for captions in meant]
    expected = float(bleu_score(reported, meant, n_gram=order))
    assert Bleu(order)(predictions, references).percent / 100 == pytest.approx(expected, abs=1e-6)


def test_bleu_of_a_split_is_no_mean_over_its_samples() -> None:
    # Right: 1 word of 1 and 1 of 3; pooled 2 of 4, as a mean 2 of 3.
    scored = Bleu(1)(["dog", "cat x y"], [["dog"], ["cat a b"]])
    assert scored.samples == pytest.approx([1.0, 1 / 3])
    assert scored.percent == pytest.approx(50.0)


def test_bleu_clips_repeated_words_at_the_most_that_one_reference_has() -> None:
    assert Bleu(1)(["the the the"], [["the cat x", "the the y"]]).samples == pytest.approx([2 / 3])


def test_bleu_measures_length_by_the_closest_reference_and_of_two_by_the_shorter() -> None:
    long, short = "a b c d e", "a b c"
    assert Bleu(1)(["a b c d"], [[long, short]]).samples == pytest.approx([1.0])
    assert Bleu(1)(["a b c d"], [[long]]).samples == pytest.approx([math.exp(1 - 5 / 4)])


def test_bleu_without_a_longer_match_is_nearly_but_not_quite_0() -> None:
    (value,) = Bleu(2)(["a c b"], [["a b c"]]).samples
    assert value == pytest.approx(math.sqrt(1e-15 / 2), rel=1e-6)


def test_rouge_l_takes_the_best_precision_and_the_best_recall_of_different_references() -> None:
    # "a c" of "a x c" is common with each: precision 2/3, recall 2/4 and, with "a b", 1/2; then all of "a".
    (value,) = rouge_l(["a x c"], [["a b c d", "a"]])
    precision, recall = 2 / 3, 1.0
    assert value == pytest.approx((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))


def test_rouge_l_needs_the_order_of_the_words_but_not_their_neighbourhood() -> None:
    assert rouge_l(["a b c", "c b a"], [["a x b y c"], ["a x b y c"]]) == pytest.approx(
        [(1 + 1.44) * 1 * 0.6 / (0.6 + 1.44), (1 + 1.44) * (1 / 3) * 0.2 / (0.2 + 1.44 / 3)]
    )


@pytest.mark.parametrize("name", [*NAMES, "mean_of_six"])
def test_an_empty_caption_scores_0_and_punctuation_is_empty(name: str) -> None:
    samples = [Answered(("dog", "...")), Answered(("a cat",)), Answered(("!",))]
    assert scorer(name)(["", "...", "?"], samples) == pytest.approx([0.0] * 3)


def test_the_score_of_hide_is_the_mean_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_means, "meteor", recorded_meteor)
    recorded, cases = golden("caption_hide_ucit"), COCO["main"]["cases"]
    scored = mean_of_seven(*split("main"))
    assert scored.percent == pytest.approx(recorded["mean_of_seven"], abs=1e-6)
    assert round(scored.percent, 2) == recorded["hide_result"]["Average"] == 109.01
    by_sample = [sum(case["scores"].values()) / 7 for case in cases]
    assert scored.samples == pytest.approx(by_sample, abs=1e-6)


def test_the_mean_of_six_is_another_number_under_another_name() -> None:
    recorded = COCO["main"]["corpus"]
    scored = mean_of_six(*split("main"))
    assert scored.percent == pytest.approx(100 * sum(recorded[name] for name in SIX) / 6, abs=1e-5)
    assert round(scored.percent, 2) == 119.24
    assert scorer("mean_of_six").name == "mean_of_six"


@pytest.mark.parametrize("metric", [Bleu(4), rouge_l, mean_of_six])
def test_what_does_not_fit_is_named(metric: Any) -> None:
    with pytest.raises(ValueError, match="got 1 predictions for 2 samples"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="sample 1 has no reference caption"):
        metric(["a", "b"], [["a"], []])


def test_a_split_without_samples_has_no_score() -> None:
    assert Bleu(1)([], []).samples == rouge_l([], []) == []
    assert math.isnan(mean_of_six([], []).percent)
