"""ArxivQA: what becomes of a small file in the owner's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from owners_kit import prepared, put, put_images

from lit_cvit.data.prepare.arxivqa import CONVERTER, HELD_OUT, NO_OPTION, OUT_OF_ORDER, TOO_FEW, _rows
from lit_cvit.data.prepare.base import Dropped, chance

FIGURES = [f"images/2301.{number:05d}_{number % 3}.jpg" for number in range(60)]
TRAINED = next(figure for figure in FIGURES if chance(figure) >= HELD_OUT)


def entry(image: str = TRAINED, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": "cs-7",
        "image": image,
        "question": "Which curve is the highest?",
        "options": ["A) The red one", "B) The blue one"],
        "label": "B",
        "rationale": "It is above the other.",
    }
    return {**plain, **changes}


def row_of(folder: Path, **changes: Any) -> Any:
    """What becomes of one entry that is trained on."""
    put(folder / "ArxivQA" / "arxivqa.jsonl", [entry(**changes)])
    [row] = _rows(folder, held_out=False)
    return row


def test_no_figure_is_in_both_splits(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    put(raw / "ArxivQA" / "arxivqa.jsonl", [entry(figure) for figure in FIGURES for _ in range(3)])
    put_images(raw / "ArxivQA", FIGURES)
    report, records = prepared(CONVERTER, "ucit", raw)
    train, test = ({row["image"] for row in records[split]} for split in ("train", "test"))
    assert not train & test
    assert train | test == set(FIGURES)
    assert (len(records["train"]), len(records["test"])) == (3 * len(train), 3 * len(test))
    assert test
    assert (report["train"]["published"], report["test"]["published"]) == (40_000, 3_000)
    ids = [row["id"] for split in records.values() for row in split]
    assert len(set(ids)) == 180, "the owner's ids are not unique; the numbers of the lines are"


def test_a_record_lists_its_options_by_letter(tmp_path: Path) -> None:
    assert row_of(tmp_path) == {
        "id": "1",
        "image": TRAINED,
        "question": "Which curve is the highest?\nA. The red one\nB. The blue one",
        "choices": ["The red one", "The blue one"],
        "answers": ["B"],
    }


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (["(A) x", "(B) y"], ["x", "y"]),
        (["A. x", "B. y", "- Rationale: y is above x"], ["x", "y"]),
        (["A: x", "B: y", "Explanation: none", ""], ["x", "y"]),
        (["A. 0.5", "B. 1.5"], ["0.5", "1.5"]),
        (["x", "y"], ["x", "y"]),
        (["[A] x", "[B] y"], ["x", "y"]),
        (["A.) x", "B.) y"], ["x", "y"]),
        (["A. x", "-", "B) y", "## For both figures (a) and (b):"], ["x", "y"]),
        (["x", "y", "-"], ["x", "y"]),
        (["A. -", "B. +"], ["-", "+"]),
    ],
)
def test_letters_and_rationales_are_no_part_of_an_option(
    tmp_path: Path, options: list[str], choices: list[str]
) -> None:
    assert row_of(tmp_path, options=options)["choices"] == choices


@pytest.mark.parametrize(
    "label",
    [
        "B",
        "b",
        " B ",
        "(B)",
        "[B]",
        "B.",
        "B) The blue one",
        "[B] The blue one",
        "B: it",
        "B The blue one",
        "The blue one",
        "B. other",
    ],
)
def test_labels_are_read_in_every_form_that_occurs(tmp_path: Path, label: str) -> None:
    assert row_of(tmp_path, label=label)["answers"] == ["B"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": "C"}, NO_OPTION),
        ({"label": "A and B"}, NO_OPTION),
        ({"label": ""}, NO_OPTION),
        ({"label": "", "options": ["A)", "B)"]}, NO_OPTION),
        ({"label": "A", "options": ["x", "-", "y"]}, OUT_OF_ORDER),
        ({"label": "A", "options": ["Rationale: y is above x", "x", "y"]}, OUT_OF_ORDER),
        ({"options": ["A. x", "B. y", "## Figure (b)", "A. v", "B. w"]}, OUT_OF_ORDER),
        ({"label": "Because it is higher"}, NO_OPTION),
        ({"options": ["A) only"]}, TOO_FEW),
        ({"options": ["A) x", "C) y"]}, OUT_OF_ORDER),
        ({"options": ["A) x", "and more of x", "B) y"]}, OUT_OF_ORDER),
        ({"question": " "}, "no question"),
    ],
)
def test_what_cannot_be_asked_is_dropped(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert row_of(tmp_path, **changes) == Dropped(reason)


def test_a_line_of_another_file_is_named(tmp_path: Path) -> None:
    put(tmp_path / "ArxivQA" / "arxivqa.jsonl", [entry(), {"image": TRAINED, "caption": "a plot"}])
    with pytest.raises(ValueError, match=r"arxivqa.jsonl, line 2: field 'options' must be a list"):
        list(_rows(tmp_path, held_out=False))
