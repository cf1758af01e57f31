"""Scorers and rules against decisions of the official evaluation code (tests/golden/scores_SOURCE.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from metrics_kit import Answered, golden, golden_cases

from lit_cvit.metrics.following import follows
from lit_cvit.metrics.letters import hide_option_letter, official_option_letter
from lit_cvit.metrics.scoring import scorer
from lit_cvit.metrics.text import evalai_normalize, normalize_words, strip_punctuation

Case = dict[str, Any]


def _choice(case: Case) -> Answered:
    return Answered(("ABCDE"[case["answer_index"]],), tuple("stuvw"[: case["n_choices"]]))


def _single(case: Case) -> Answered:
    return Answered((case["reference"],))


def _several(case: Case) -> Answered:
    return Answered(tuple(case["references"]))


def _scores(name: str, cases: list[Case], sample: Callable[[Case], Answered]) -> list[float]:
    return scorer(name)([case["prediction"] for case in cases], [sample(case) for case in cases])


@pytest.mark.parametrize(
    ("name", "file", "field", "sample"),
    [
        ("official_scienceqa", "score_scienceqa", "correct", _choice),
        ("official_scienceqa_hide", "score_scienceqa", "correct_hide", _choice),
        ("vqa_soft", "score_textvqa_m4c", "score", _several),
        ("vqa_soft", "score_vqav2_soft", "score_lmms_eval", _several),
        ("official_vqav2", "score_vqav2_soft", "score_official", _several),
        ("official_gqa", "score_gqa", "score", _single),
        ("official_exact", "score_vqav2_vizwiz_exact", "vqav2", _single),
        ("official_exact", "score_vqav2_vizwiz_exact", "vizwiz_hide", _single),
        ("official_exact", "score_ucit_exact", "exact", _single),
        ("official_ocrvqa", "score_ocrvqa", "ocrvqa", _single),
        ("official_substring", "score_imagenet_substring", "case_insensitive", _single),
        ("official_imagenet_coin", "score_imagenet_substring", "case_sensitive", _single),
    ],
)
def test_scorer_repeats_the_official_scores(
    name: str, file: str, field: str, sample: Callable[[Case], Answered]
) -> None:
    cases = golden_cases(file)
    assert len(cases) > 180
    assert _scores(name, cases, sample) == pytest.approx([case[field] for case in cases], abs=1e-6)


def test_substring_takes_any_of_several_class_names() -> None:
    cases = [case for case in golden_cases("score_classification_list_substring") if case["references"]]
    assert len(cases) == 163
    assert _scores("official_substring", cases, _several) == [case["score"] for case in cases]


def test_textvqa_aggregate_is_100_times_the_mean() -> None:
    cases = golden_cases("score_textvqa_m4c")
    scores = _scores("vqa_soft", cases, _several)
    expected = golden("score_textvqa_m4c")["aggregate"]["accuracy"]
    assert sum(scores) / len(scores) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("read", "field"), [(official_option_letter, "parsed"), (hide_option_letter, "parsed_hide")]
)
def test_official_letter_is_the_recorded_parse(read: Callable[[str], str | None], field: str) -> None:
    cases = golden_cases("score_scienceqa")
    parsed = [read(case["prediction"]) or "FAILED" for case in cases]
    # A prediction that is the word FAILED has no letter either.
    assert parsed == [case[field] for case in cases]


def test_hides_paper_calls_right_whatever_its_code_does_and_more() -> None:
    cases = golden_cases("score_ucit_exact")
    paper, code = (_scores(name, cases, _single) for name in ("paper_hide", "official_exact"))
    assert all(one >= other for one, other in zip(paper, code, strict=True))
    assert sum(paper) > sum(code)


def test_standard_letter_differs_from_the_official_one_only_where_one_of_them_guesses() -> None:
    cases = golden_cases("score_scienceqa")
    standard, official = (_scores(name, cases, _choice) for name in ("letter", "official_scienceqa"))
    differ = {
        case["prediction"]: mine
        for case, mine, theirs in zip(cases, standard, official, strict=True)
        if mine != theirs
    }
    assert differ == {
        "It is a dog": 0.0,
        "both A and B": 0.0,
        "_B_": 1.0,
        "a cat. B": 0.0,
        "The answer is A or B.": 0.0,
        "energy A answer": 0.0,
        "A C": 0.0,
        "solid the a C 3": 0.0,
        "'s B A energy c.": 1.0,
        "energy C B D.": 1.0,  # of two choices
    }


@pytest.mark.parametrize(
    ("function", "field"),
    [
        (evalai_normalize, "normalized"),
        (strip_punctuation, "punctuation_only"),
        (normalize_words, "digit_article_only"),
    ],
)
def test_evalai_chain_and_its_steps(function: Callable[[str], str], field: str) -> None:
    cases = golden_cases("score_evalai_normalize")
    assert len(cases) == 185
    assert [function(case["text"]) for case in cases] == [case[field] for case in cases]


@pytest.mark.parametrize(
    ("format_name", "file", "num_cases"),
    [("letter", "choice", 166), ("short", "short_answer", 191), ("caption", "caption", 184)],
)
def test_mif_decisions(format_name: str, file: str, num_cases: int) -> None:
    cases = golden_cases(f"score_mif_{file}")
    assert len(cases) == num_cases
    decided = [follows(format_name, case["prediction"], _references(case)) for case in cases]
    assert decided == [case["follows"] for case in cases]


def _references(case: Case) -> tuple[str, ...]:
    # Where the official caption loop was given one string, it ran over its characters.
    return tuple(case["references"]) if "references" in case else (case.get("reference", ""),)
