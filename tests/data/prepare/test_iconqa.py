"""IconQA: what becomes of small files in the owner's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from owners_kit import prepared, put, put_images

from lit_cvit.data.benchmarks.ucit import ucit
from lit_cvit.data.prepare.iconqa import CONVERTER, NO_OPTION, NO_PROBLEM

CHOOSE = {"ques_type": "choose_txt", "grade": "grade1", "label": "S2", "skills": ["counting"]}
PROBLEMS: dict[str, dict[str, Any]] = {
    "10": {**CHOOSE, "question": "How many dots are there?", "choices": ["3", "4"], "answer": 1},
    "11": {**CHOOSE, "question": "What comes next?", "choices": ["star", "moon", "sun"], "answer": 0},
    "12": {**CHOOSE, "question": "Which is it?", "choices": ["yes", "no"], "answer": 2},
    "20": {"ques_type": "fill_in_blank", "question": "It is (_) cm long. ", "answer": "7", "choices": None},
    "30": {"ques_type": "choose_img", "question": "Which?", "choices": ["choice_0.png"], "answer": 0},
}
SPLITS = {
    "choose_txt_train": ["11", "10", "12"],
    "fill_in_blank_train": ["20", "99"],
    "choose_img_train": ["30"],
    "choose_txt_val": ["10"],
    "fill_in_blank_val": [],
    "choose_txt_minitrain": ["10"],
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "IconQA" / "iconqa_data"
    put(folder / "problems.json", PROBLEMS)
    put(folder / "pid_splits.json", SPLITS)
    images = ("train/choose_txt/10", "train/choose_txt/11", "train/fill_in_blank/20", "val/choose_txt/10")
    put_images(folder / "iconqa", [f"{image}/image.png" for image in images])
    return tmp_path / "raw"


def test_questions_with_options_in_words_and_open_ones_are_taken(raw: Path) -> None:
    report, records = prepared(CONVERTER, "ucit", raw)
    assert records["train"] == [
        {
            "id": "11",
            "image": "iconqa/train/choose_txt/11/image.png",
            "question": "What comes next?\nA. star\nB. moon\nC. sun",
            "choices": ["star", "moon", "sun"],
            "answers": ["A"],
        },
        {
            "id": "10",
            "image": "iconqa/train/choose_txt/10/image.png",
            "question": "How many dots are there?\nA. 3\nB. 4",
            "choices": ["3", "4"],
            "answers": ["B"],
        },
        {
            "id": "20",
            "image": "iconqa/train/fill_in_blank/20/image.png",
            "question": "It is (_) cm long.",
            "answers": ["7"],
        },
    ]
    assert report["train"]["dropped"] == {NO_OPTION: 1, NO_PROBLEM: 1}
    # What UCIT prints is the sum of the owner's 18,946 and 10,913 training questions of these two kinds.
    assert (report["train"]["published"], report["test"]["published"]) == (18_946 + 10_913, 3_000)


def test_the_test_comes_from_the_owners_validation_split(raw: Path) -> None:
    [row] = prepared(CONVERTER, "ucit", raw)[1]["test"]
    assert (row["id"], row["image"]) == ("10", "iconqa/val/choose_txt/10/image.png")


def test_the_benchmark_asks_for_a_letter_where_there_are_options_and_else_for_a_word(raw: Path) -> None:
    prepared(CONVERTER, "ucit", raw)
    [task] = ucit(root=str(raw.parent / "prepared"), tasks=["IconQA"]).stream
    rows = [task.train.sample(index) for index in range(3)]
    assert [row.user_text.splitlines()[-1] for row in rows] == [
        "Answer with the option's letter from the given choices directly.",
        "Answer with the option's letter from the given choices directly.",
        "Answer the question using a single word or phrase.",
    ]
    assert task.scorer(["A. star", "b", "7."], rows) == [1.0, 1.0, 1.0]
    assert task.scorer(["moon", "A", "A"], rows) == [0.0, 0.0, 0.0]


def test_files_that_are_not_the_owners_are_named(raw: Path) -> None:
    folder = raw / "IconQA" / "iconqa_data"
    put(folder / "problems.json", {**PROBLEMS, "10": {**PROBLEMS["10"], "choices": None}})
    with pytest.raises(
        ValueError, match=r"problems.json, \['10'\]: field 'choices': got None; it must be a list of strings"
    ):
        prepared(CONVERTER, "ucit", raw)
    put(folder / "problems.json", PROBLEMS)
    put(folder / "pid_splits.json", {"train": ["10"]})
    with pytest.raises(
        ValueError, match=r"pid_splits.json: field 'choose_txt_train': got None; it must be a list"
    ):
        prepared(CONVERTER, "ucit", raw)
