"""VizWiz-Captions: what becomes of small files in the owner's schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from owners_kit import prepared, put, put_images

from lit_cvit.data.prepare.vizwiz_cap import CONVERTER, NO_CAPTION, NO_IMAGE, UNCAPTIONED

FIRST = {"train": 0, "val": 23431}
"""Numbers of the first images: those of val go on where train's end, their file names start at 0 again."""


def annotations(split: str, reported: dict[int, list[str]], *, images: int) -> dict[str, Any]:
    first = FIRST[split]
    return {
        "info": {},
        "images": [
            {
                "id": first + n,
                "file_name": f"VizWiz_{split}_{n:08d}.jpg",
                "vizwiz_url": "",
                "text_detected": False,
            }
            for n in range(images)
        ],
        "annotations": [
            {
                "id": 5 * (first + image) + n,
                "image_id": first + image,
                "caption": caption,
                "is_precanned": caption.startswith("Quality"),
                "is_rejected": False,
                "text_detected": False,
            }
            for image, captions in reported.items()
            for n, caption in enumerate(captions)
        ],
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    reported = {0: ["A cup on a table. ", "Quality issues are too severe."], 1: [" "], 8: ["Nobody's."]}
    tested = {0: ["a dog", "A dog.", " "], 2: ["a door"]}
    put(folder / "VizWiz-cap" / "annotations" / "train.json", annotations("train", reported, images=2))
    put(folder / "VizWiz-cap" / "annotations" / "val.json", annotations("val", tested, images=3))
    put_images(folder / "VizWiz" / "train", ["VizWiz_train_00000000.jpg"])
    put_images(folder / "VizWiz" / "val", ["VizWiz_val_00000000.jpg", "VizWiz_val_00000002.jpg"])
    return folder


def test_training_has_a_record_a_caption_precanned_ones_too(raw: Path) -> None:
    report, records = prepared(CONVERTER, "ucit", raw)
    image = "train/VizWiz_train_00000000.jpg"
    assert records["train"] == [
        {
            "id": "VizWiz_train_00000000_0",
            "image": image,
            "question": "",
            "answers": ["A cup on a table."],
        },
        {
            "id": "VizWiz_train_00000000_1",
            "image": image,
            "question": "",
            "answers": ["Quality issues are too severe."],
        },
    ]
    assert report["train"]["dropped"] == {NO_CAPTION: 1, NO_IMAGE: 1}
    assert (report["train"]["published"], report["test"]["published"]) == (40_000, 3_000)


def test_the_test_has_a_record_an_image_with_all_its_captions(raw: Path) -> None:
    report, records = prepared(CONVERTER, "ucit", raw)
    assert [(row["id"], row["image"], row["answers"]) for row in records["test"]] == [
        ("VizWiz_val_00000000", "val/VizWiz_val_00000000.jpg", ["a dog", "A dog."]),
        ("VizWiz_val_00000002", "val/VizWiz_val_00000002.jpg", ["a door"]),
    ]
    assert report["test"]["dropped"] == {NO_CAPTION: 1, UNCAPTIONED: 1}


def test_the_file_of_the_owners_test_split_has_no_captions_and_is_refused(raw: Path) -> None:
    put(raw / "VizWiz-cap" / "annotations" / "val.json", {"info": {}, "images": []})
    with pytest.raises(ValueError, match=r"val.json: .*'annotations'"):
        prepared(CONVERTER, "ucit", raw)
