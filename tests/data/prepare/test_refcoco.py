"""RefCOCO, RefCOCO+ and RefCOCOg: what becomes of small files in the schema of the `refer` toolbox."""

from __future__ import annotations

import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from owners_kit import prepared, put, put_images

from lit_cvit.data.prepare.refcoco import CONVERTER, NO_BOX, NOT_DRAWN, box_on_square, read_plain_pickle
from lit_cvit.metrics.boxes import read_box

WIDE, TALL = 3, 5  # image ids
IMAGES = [
    {"id": WIDE, "file_name": "COCO_train2014_000000000003.jpg", "width": 640, "height": 480, "license": 1},
    {"id": TALL, "file_name": "COCO_train2014_000000000005.jpg", "width": 300, "height": 400, "license": 1},
]
ANNOTATIONS = [
    {"id": 70, "image_id": WIDE, "category_id": 1, "bbox": [64.0, 48.0, 320.0, 240.0], "iscrowd": 0},
    {"id": 71, "image_id": TALL, "category_id": 2, "bbox": [0.0, 0.0, 300.0, 400.0], "iscrowd": 0},
    {"id": 72, "image_id": TALL, "category_id": 2, "bbox": [10.0, 20.0, 0.0, 40.0], "iscrowd": 0},
]


def ref(ref_id: int, ann_id: int, split: str, *reported: str) -> dict[str, Any]:
    """One entry of a refs pickle; its file name carries the number of the annotation, as the owner's do."""
    sentences = [
        {"sent_id": 10 * ref_id + n, "sent": text, "raw": text.upper(), "tokens": text.split()}
        for n, text in enumerate(reported)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": WIDE,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_000000000003_{ann_id}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


def put_refs(path: Path, refs: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(refs, protocol=2))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    refs = {
        "refcoco/refs(unc).p": [
            ref(0, 70, "train", "man on the left", "guy in blue"),
            ref(1, 71, "train", "the tall one"),
            ref(2, 70, "val", "never used"),
            ref(3, 71, "testA", "her", "the girl"),
            ref(4, 70, "testB", "chair"),
        ],
        "refcoco+/refs(unc).p": [ref(0, 70, "train", "blue shirt"), ref(1, 70, "testB", "blue")],
        "refcocog/refs(umd).p": [
            ref(0, 71, "train", "a girl who stands"),
            ref(1, 99, "train", "a thing that is lost"),
            ref(2, 72, "test", "a line"),
            ref(3, 71, "test", "   "),
            ref(4, 70, "test", "a man who holds a cup"),
        ],
    }
    for name, content in refs.items():
        put_refs(folder / "RefCOCO" / name, content)
        instances = {"info": {}, "images": IMAGES, "annotations": ANNOTATIONS, "categories": []}
        put(folder / "RefCOCO" / name.split("/")[0] / "instances.json", instances)
    put_images(folder / "COCO2014" / "train2014", [str(image["file_name"]) for image in IMAGES])
    return folder


def test_every_expression_of_the_test_splits_is_a_record(raw: Path) -> None:
    report, records = prepared(CONVERTER, "coin", raw)
    assert [(row["id"], row["question"]) for row in records["test"]] == [
        ("refcoco_3_30", "her"),
        ("refcoco_3_31", "the girl"),
        ("refcoco_4_40", "chair"),
        ("refcoco+_1_10", "blue"),
        ("refcocog_4_40", "a man who holds a cup"),
    ]
    assert report["test"]["dropped"] == {"box without an area": 1, "empty expression": 1}
    assert report["test"]["published"] == 30_969


def test_training_has_one_expression_of_each_image_and_data_set(raw: Path) -> None:
    report, records = prepared(CONVERTER, "coin", raw)
    drawn = [(row["id"].split("_")[0], row["image"].split("/")[1][-5]) for row in records["train"]]
    assert drawn == [("refcoco", "3"), ("refcoco", "5"), ("refcoco+", "3"), ("refcocog", "5")]
    assert records["train"][0]["question"] in ("man on the left", "guy in blue")
    assert report["train"]["dropped"] == {NOT_DRAWN: 1, NO_BOX: 1}


def test_a_record_names_the_image_of_its_box_and_says_the_box_as_coin_does(raw: Path) -> None:
    row = prepared(CONVERTER, "coin", raw)[1]["test"][2]
    assert row == {
        "id": "refcoco_4_40",
        "image": "train2014/COCO_train2014_000000000003.jpg",
        "question": "chair",
        "answers": ["[0.10, 0.20, 0.60, 0.57]"],
        "bbox": [0.1, 0.2, 0.6, 0.57],
        "size": [640, 480],
    }
    assert read_box(row["answers"][0]) == tuple(Fraction(edge) for edge in ("0.10", "0.20", "0.60", "0.57"))


@pytest.mark.parametrize(
    ("box", "size", "edges"),
    [
        ((0, 0, 640, 480), (640, 480), (0.0, 0.12, 1.0, 0.88)),  # 80/640 is 0.125, to the even digit
        ((0, 0, 300, 400), (300, 400), (0.12, 0.0, 0.88, 1.0)),
        ((10, 20, 30, 40), (100, 100), (0.1, 0.2, 0.4, 0.6)),
        ((0, 0, 1, 1), (101, 100), (0.0, 0.0, 0.01, 0.01)),
    ],
)
def test_boxes_are_parts_of_the_padded_square(
    box: tuple[float, float, float, float], size: tuple[int, int], edges: tuple[float, float, float, float]
) -> None:
    assert box_on_square(box, *size) == list(edges)


class Evil:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    put_refs(tmp_path / "refs(unc).p", [Evil(trace)])
    with pytest.raises(ValueError, match=r"refs\(unc\).p: not a pickle of plain data .*system"):
        read_plain_pickle(tmp_path / "refs(unc).p")
    assert not trace.exists()
    put_refs(tmp_path / "sets.p", {frozenset({1})})
    with pytest.raises(ValueError, match="not a pickle of plain data"):
        read_plain_pickle(tmp_path / "sets.p")


def test_pickles_of_python_2_and_damaged_ones(tmp_path: Path) -> None:
    # As Python 2 wrote [{'sent': u'caf\xe9', 'split': 'val', 'ref_id': 3L}] with protocol 0.
    old = b"(lp0\n(dp1\nS'sent'\np2\nVcaf\xe9\np3\nsS'split'\np4\nS'val'\np5\nsS'ref_id'\np6\nL3L\nsa."
    path = tmp_path / "refs(unc).p"
    path.write_bytes(old)
    assert read_plain_pickle(path) == [{"sent": "café", "split": "val", "ref_id": 3}]
    for damaged in (old[:40], b"", b"<html>not found</html>", b"\x80\x02]q\x00(K\x01"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"refs\(unc\).p: not a pickle of plain data"):
            read_plain_pickle(path)


def test_a_reference_without_a_field_is_named(raw: Path) -> None:
    broken = ref(0, 70, "train", "man")
    del broken["ann_id"]
    put_refs(raw / "RefCOCO" / "refcoco" / "refs(unc).p", [ref(1, 70, "train", "man"), broken])
    with pytest.raises(
        ValueError, match=r"refcoco/refs\(unc\).p, \[1\]: field 'ann_id' must be a whole number"
    ):
        prepared(CONVERTER, "coin", raw)
    put_refs(raw / "RefCOCO" / "refcoco" / "refs(unc).p", {"refs": []})
    with pytest.raises(ValueError, match=r"refs\(unc\).p: got .*must be a list of references"):
        prepared(CONVERTER, "coin", raw)
