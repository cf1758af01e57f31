"""Boxes: how an answer is read, how two boxes overlap, and the published Grounding script's decisions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from metrics_kit import Answered, golden_cases

from lit_cvit.metrics.boxes import Box, iou, official_read_box, read_box
from lit_cvit.metrics.scoring import scorer

CASES = golden_cases("score_grounding")


def box(*edges: str | int) -> Box:
    x1, y1, x2, y2 = map(Fraction, edges)
    return x1, y1, x2, y2


def scores(name: str) -> list[float]:
    samples = [Answered((case["reference"],)) for case in CASES]
    return scorer(name)([case["prediction"] for case in CASES], samples)


def test_the_official_scorer_repeats_the_published_decisions() -> None:
    assert len(CASES) == 190
    assert scores("official_grounding") == [case["score"] for case in CASES]


def test_the_official_reading_and_overlap_are_the_recorded_ones() -> None:
    for case in CASES:
        found, gold = official_read_box(case["prediction"]), read_box(case["reference"])
        assert gold is not None
        assert (found is not None) is case["parsed"]
        if found is not None:
            assert float(iou(found, gold)) == pytest.approx(case["iou"], abs=1e-6)


def test_the_standard_scorer_is_the_script_without_its_cut_that_also_reads_whole_numbers() -> None:
    """CoIN's other script, for MiniGPT, cuts nothing, but misses "0.00" and ".41"."""
    differ = {
        case["prediction"]
        for case, mine in zip(CASES, scores("grounding_iou"), strict=True)
        if mine != case["score_regex"]
    }
    assert differ == {
        "[.41,.45,.63,.62]",
        "[0.00, 0.22, 0.35, 0.39]",
        "[0.00, 0.55, 0.19, 0.77]",
        "[0.14, 0.00, 0.19, 0.60]",
        "[0.00, 0.12, 0.39, 0.35]",
        "[0.24 , 0.00 , 0.42 , 0.37]",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0.41, 0.45, 0.63, 0.62]", box("0.41", "0.45", "0.63", "0.62")),
        ("The box is (0.41 0.45 0.63 0.62).", box("0.41", "0.45", "0.63", "0.62")),
        ("[0, .5, 1., -0.25]", box(0, "0.5", 1, "-0.25")),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4] or [0.1, 0.2, 0.3, 0.5]", None),
        ("[0,41, 0,45, 0,63, 0,62]", None),
        ("[1e-1, 2e-1, 5e-1, 6e-1]", None),
        ("[nan, 0.1, 0.2, 0.3]", None),
        (f"[{'1' * 5000}, 0.1, 0.2, 0.3]", None),
        ("", None),
    ],
)
def test_a_box_is_exactly_four_numbers(text: str, expected: Box | None) -> None:
    assert read_box(text) == expected


def test_overlap_is_exact_and_symmetric() -> None:
    whole, half, right = box(0, 0, 2, 1), box(0, 0, 1, 1), box(1, 0, 3, 1)
    assert iou(whole, whole) == 1
    assert iou(whole, half) == iou(half, whole) == Fraction(1, 2)
    assert iou(whole, right) == Fraction(1, 3)
    assert iou(half, right) == 0


def test_a_box_that_is_inverted_or_empty_overlaps_with_nothing() -> None:
    whole = box(0, 0, 1, 1)
    assert [iou(bad, whole) for bad in (box(1, 0, 0, 1), box(1, 1, 0, 0), box(0, 0, 0, 1))] == [0, 0, 0]


def test_half_an_overlap_is_not_enough() -> None:
    gold = [Answered(("[0.00, 0.00, 0.30, 0.20]",))]
    assert scorer("grounding_iou")(["[0.00, 0.00, 0.30, 0.10]"], gold) == [0.0]
    assert scorer("grounding_iou")(["[0.00, 0.00, 0.30, 0.11]"], gold) == [1.0]


def test_a_reference_that_is_no_box_is_named() -> None:
    with pytest.raises(ValueError, match="sample 0: the reference answer 'left' is no box of four numbers"):
        scorer("grounding_iou")(["[0, 0, 1, 1]"], [Answered(("left",))])
