"""CLEVR-Math: what becomes of small files in the owner's schema."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from owners_kit import prepared, put, put_images

from lit_cvit.data.prepare.clevr_math import CONVERTER, NO_QUESTION


def questions(split: str, *asked: tuple[str, Any]) -> dict[str, Any]:
    return {
        "info": {"split": split},
        "questions": [
            {
                "split": split,
                "image_filename": f"CLEVR_{split}_000007.png",
                "image_index": 7,
                "image": f"CLEVR_{split}_000007",
                "question": text,
                "answer": answer,
                "template_filename": "subtraction.json",
                "question_family_index": 0,
                "program": [],
            }
            for text, answer in asked
        ],
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "CLEVR-Math"
    asked = (("Subtract all cubes. How many objects are left?", 4), ("", 1), ("Add 2 cubes. How many?", "9"))
    put(folder / "clevr-math-train.json", questions("train", *asked))
    put(folder / "clevr-math-val.json", questions("val", ("Subtract all spheres. How many are left?", 0)))
    for split in ("train", "val"):
        put_images(folder / "CLEVR_v1.0" / "images" / split, [f"CLEVR_{split}_000007.png"])
    return tmp_path / "raw"


def test_answers_are_texts_and_ids_are_places_in_the_file(raw: Path) -> None:
    report, records = prepared(CONVERTER, "ucit", raw)
    assert records["train"] == [
        {
            "id": "train_0",
            "image": "train/CLEVR_train_000007.png",
            "question": "Subtract all cubes. How many objects are left?",
            "answers": ["4"],
        },
        {
            "id": "train_2",
            "image": "train/CLEVR_train_000007.png",
            "question": "Add 2 cubes. How many?",
            "answers": ["9"],
        },
    ]
    assert report["train"]["dropped"] == {NO_QUESTION: 1}
    assert (report["train"]["published"], report["test"]["published"]) == (40_000, 3_000)


def test_the_test_comes_from_the_owners_validation_split(raw: Path) -> None:
    [row] = prepared(CONVERTER, "ucit", raw)[1]["test"]
    assert (row["id"], row["image"], row["answers"]) == ("val_0", "val/CLEVR_val_000007.png", ["0"])


def test_questions_of_plain_clevr_test_have_no_answers_and_are_refused(raw: Path) -> None:
    bare = questions("train", ("How many?", 1))
    del bare["questions"][0]["answer"]
    put(raw / "CLEVR-Math" / "clevr-math-train.json", bare)
    with pytest.raises(
        ValueError, match=r"clevr-math-train.json, questions\[0\]: field 'answer' must be a whole number"
    ):
        prepared(CONVERTER, "ucit", raw)


def test_the_file_of_another_split_is_refused(raw: Path) -> None:
    shutil.copy(raw / "CLEVR-Math/clevr-math-train.json", raw / "CLEVR-Math/clevr-math-val.json")
    with pytest.raises(
        ValueError, match=r"clevr-math-val\.json, questions\[0\]: field 'split' is 'train', must be 'val';"
    ):
        prepared(CONVERTER, "ucit", raw)
