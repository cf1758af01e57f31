"""PTB tokens and CIDEr-D against the COCO caption tools (tests/golden/captions_SOURCE.md), and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from metrics_kit import Answered, golden

from lit_cvit.metrics.captions import best_reference_cider, cider, raw_cider
from lit_cvit.metrics.ptb import ptb_tokenize
from lit_cvit.metrics.scoring import scorer

COCO = {name: golden(f"caption_coco_{name}") for name in ("main", "varrefs")}
CORPORA: dict[str, dict[str, Any]] = {
    **COCO,
    **{f"tiny{at}": corpus for at, corpus in enumerate(golden("caption_coco_tiny")["corpora"])},
}


@pytest.mark.parametrize("name", CORPORA)
def test_tokens_are_those_of_the_coco_tools(name: str) -> None:
    captions, tokens = [], []
    for case in CORPORA[name]["cases"]:
        captions += [case["prediction"], *case["references"]]
        tokens += [case["prediction_tokens"], *case["references_tokens"]]
    assert [" ".join(ptb_tokenize(caption)) for caption in captions] == tokens


def test_tokens_of_odd_strings_are_those_of_the_tool_but_for_one() -> None:
    cases = golden("caption_ptb_tokenize")["cases"]
    assert len(cases) == 238
    differ = {
        case["id"]: case["tokens"] for case in cases if " ".join(ptb_tokenize(case["text"])) != case["tokens"]
    }
    # The tool keeps the last stop because the next line of its file happens not to begin a sentence.
    assert differ == {184: "the '90s bench colon here mr. x a near mr. x a."}


def test_an_address_keeps_the_marks_that_the_tool_leaves_to_it() -> None:
    cases = golden("caption_ptb_emails")["cases"]
    assert len(cases) == 147
    differ = [case for case in cases if " ".join(ptb_tokenize(case["text"])) != case["tokens"]]
    assert differ == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("Write to you@y.net! Or to me@x.org.", "write to you@y.net! or to me@x.org"),
        ("He isn't O'Brien's dog, he's \u201cours\u201d.", "he is n't o'brien 's dog he 's ours"),
        ("It\u2019s 5 p.m. in St. Louis, Mo.", "it 's 5 p.m. in st. louis mo."),
        ("We wanna, gonna and cannot; lemme!", "we wan na gon na and can not lem me"),
        ("No. 5 says no. fig.3", "no. 5 says no fig. 3"),
        ("J. Smith and so am I. The dog.", "j. smith and so am i the dog"),
        ("$1.99 or 50\u00a2, 10:30am 3\u00bd", "$ 1.99 or 50 cents 10:30 am 3 1/2"),
        ("AT&T p&q Q&A x=y", "at&t p & q q&a x = y"),
        ("a 12-inch black/white t-shirt of '68", "a 12-inch black/white t-shirt of '68"),
        ("rock 'n' roll in the 1970's", "rock 'n' roll in the 1970 's"),
        ("10 lb., new -- see www.site.com/page.", "10 lb. new see www.site.com/page"),
        ("\U0001f600 hi ?! ... \u2014", "hi ?!"),
        ("[a] {b} <unk>", "-lsb- a -rsb- -lcb- b -rcb- <unk>"),
        ("line\nbreak\ttab", "line break tab"),
        ("", ""),
    ],
)
def test_tokens_recorded_from_the_tool(caption: str, tokens: str) -> None:
    assert " ".join(ptb_tokenize(caption)) == tokens


@pytest.mark.parametrize("name", CORPORA)
def test_cider_is_that_of_the_coco_tools(name: str) -> None:
    cases = CORPORA[name]["cases"]
    values = cider([case["prediction"] for case in cases], [case["references"] for case in cases])
    assert values == pytest.approx([case["scores"]["CIDEr"] for case in cases], abs=1e-6)
    assert sum(values) / len(values) == pytest.approx(CORPORA[name]["corpus"]["CIDEr"], abs=1e-6)


def test_cider_scorer_gives_the_usual_percentage() -> None:
    cases = COCO["main"]["cases"]
    samples = [Answered(tuple(case["references"])) for case in cases]
    scores = scorer("cider")([case["prediction"] for case in cases], samples)
    assert 100 * sum(scores) / len(scores) == pytest.approx(335.39858618, abs=1e-6)


def test_smolora_flickr30k_score_picks_one_reference_and_swaps_the_roles() -> None:
    recorded, cases = golden("caption_smolora_rules"), COCO["main"]["cases"]
    assert [case["id"] for case in recorded["cases"]] == [case["id"] for case in cases]
    values = best_reference_cider(
        [case["prediction"] for case in cases], [case["references"] for case in cases]
    )
    assert values == pytest.approx([case["flickr_score"] for case in recorded["cases"]], abs=1e-6)
    assert 100 * sum(values) / len(values) == pytest.approx(recorded["flickr30k_reported"], abs=1e-4)


def test_smolora_textcaps_score_splits_at_white_space() -> None:
    recorded, cases = golden("caption_smolora_rules"), COCO["main"]["cases"]
    values = raw_cider([case["prediction"] for case in cases], [case["references"] for case in cases])
    assert values == pytest.approx([case["textcaps_score"] for case in recorded["cases"]], abs=1e-6)


def test_smolora_textcaps_score_with_varying_numbers_of_references() -> None:
    recorded, cases = golden("caption_smolora_textcaps_varrefs"), COCO["varrefs"]["cases"]
    values = raw_cider([case["prediction"] for case in cases], [case["references"] for case in cases])
    assert values == pytest.approx(recorded["per_image"], abs=1e-6)


def test_cider_of_a_perfect_short_caption_by_hand() -> None:
    # One word: only unigrams count (1 of 4 orders), cosine 1, no length penalty.
    assert cider(["dog", "cat"], [["dog"], ["cat"]]) == pytest.approx([2.5, 2.5])


def test_cider_penalises_length_by_the_gap_in_bigrams() -> None:
    # Unigram cosine 1/2: the prediction says "dog" and an unknown word, each of weight log 2.
    weight = math.log(2)
    cosine = weight * weight / (math.hypot(weight, weight) * weight)
    expected = 10 / 4 * cosine * math.exp(-1 / (2 * 6**2))
    assert cider(["dog here", "cat"], [["dog"], ["cat"]])[0] == pytest.approx(expected)


def test_cider_clips_repeated_words() -> None:
    repeated, plain = (
        cider([text, "x"], [["dog runs"], ["y"]])[0] for text in ("dog dog dog runs", "dog runs")
    )
    assert repeated < plain == pytest.approx(5.0)


def test_cider_of_an_empty_prediction_is_0() -> None:
    assert cider(["", "cat"], [["dog"], ["cat"]])[0] == 0.0


def test_cider_of_no_samples_is_empty() -> None:
    assert cider([], []) == []


def test_cider_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="CIDEr got 1 predictions for 2 samples"):
        cider(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="CIDEr: sample 1 has no reference caption"):
        cider(["a", "b"], [["a"], []])
