from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_cvit.data.records import cursor as record_cursor
from lit_cvit.data.records.file import RecordFile
from lit_cvit.data.records.parse import Record, parse_record
from lit_cvit.data.records.source import RecordSource

# The schema of COCO's captions_val2014.json; made up.
CAPTIONS = {
    "info": {"year": 2014, "description": "made up"},
    "images": [
        {
            "id": 391895,
            "file_name": "COCO_val2014_000000391895.jpg",
            "height": 360,
            "width": 640,
            "license": 3,
        },
        {"id": 522418, "file_name": "b.jpg", "height": 480, "width": 640},
    ],
    "licenses": [{"id": 1, "url": "http://example.org", "name": "by"}],
    "annotations": [
        {"image_id": 522418, "id": 1, "caption": "A woman cuts a large white cake."},
        {"image_id": 391895, "id": 2, "caption": "A man on a dirt road\n"},
        {"image_id": 522418, "id": 3, "caption": "Caf\u00e9 cake \U0001f370"},
    ],
}


def write(path: Path, data: object, **options: Any) -> Path:
    path.write_text(json.dumps(data, **options), encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}])
@pytest.mark.parametrize("chunk", [5, 64, 1 << 24])
def test_every_image_is_a_record_with_its_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], chunk: int
) -> None:
    monkeypatch.setattr(record_cursor, "_WINDOW", chunk)
    file = RecordFile(write(tmp_path / "a.json", CAPTIONS, **options))
    of = CAPTIONS["annotations"]
    assert [file[index] for index in range(len(file))] == [
        {"image": CAPTIONS["images"][0], "annotations": [of[1]]},
        {"image": CAPTIONS["images"][1], "annotations": [of[0], of[2]]},
    ]
    assert file.where(1) == f"{file.path}, images[1]"


def test_lists_may_stand_in_any_order_and_in_one_line(tmp_path: Path) -> None:
    swapped = {"annotations": CAPTIONS["annotations"], "images": CAPTIONS["images"]}
    file = RecordFile(write(tmp_path / "a.json", swapped))
    assert [len(file[index]["annotations"]) for index in range(2)] == [1, 2]


def test_captions_of_an_image_are_the_references_of_one_sample(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "img" / "b.jpg")
    source = RecordSource(
        write(tmp_path / "a.json", CAPTIONS),
        task="Caption",
        instructions=("What is happening in the image?",),
        image_root=tmp_path / "img",
    )
    sample = source.sample(1)
    assert (sample.id, sample.user_text) == ("522418", "What is happening in the image?")
    assert sample.answers == ("A woman cuts a large white cake.", "Caf\u00e9 cake \U0001f370")
    assert source.sample(0).answers == ("A man on a dirt road",)
    assert sample.image is not None
    assert sample.image.open().size == (2, 2)


def test_one_of_several_instructions_is_drawn_by_task_id_and_epoch(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": "a.jpg"} for number in range(40)]
    notes = [{"image_id": number, "caption": "x"} for number in range(40)]
    path = write(tmp_path / "a.json", {"images": images, "annotations": notes})
    texts = ("One.", "Two.", "Three.")
    source = RecordSource(path, task="C", instructions=texts, image_root=tmp_path)
    drawn = [[source.sample(index, epoch).instruction for index in range(40)] for epoch in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == set(texts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"images": [{"id": 1}], "annotations": [{"image_id": 2}]},
            ", annotations[0]: field 'image_id': got 2; no image of the file has that id",
        ),
        (
            {"images": [{"id": 1}, {"id": 1}], "annotations": []},
            ", images[1]: field 'id': got 1 a second time",
        ),
        (
            {"images": [{"id": 1}, {}], "annotations": []},
            ", images[1]: field 'id': got nothing; it must be a string or a whole number",
        ),
        (
            {"images": [{"id": 1}], "annotations": [{"image_id": None}]},
            ", annotations[0]: field 'image_id': got None; it must be a string or a whole number",
        ),
        ({"images": [{"id": 1}, 7]}, ", images[1]: got 7; a record is a JSON object {...}"),
        (
            {"images": [{"id": 1}]},
            ": no list 'annotations'; a COCO caption file has 'images' and 'annotations'",
        ),
        ({"images": [], "annotations": []}, ": the list is empty, it needs at least one record"),
    ],
)
def test_a_broken_caption_file_is_refused_with_its_place(tmp_path: Path, data: object, message: str) -> None:
    path = write(tmp_path / "a.json", data)
    with pytest.raises(ValueError, match="a.json") as caught:
        RecordFile(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_caption_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CAPTIONS)[:-30])
    with pytest.raises(ValueError, match=r"a\.json: broken JSON at line 1, column \d+: "):
        RecordFile(path)


@pytest.mark.parametrize("row", [{"images": []}, {"images": ["a.png"], "annotations": "x"}, {"info": {}}])
def test_lines_with_such_keys_are_still_lines(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row))
    assert [RecordFile(path)[index] for index in range(2)] == [row, row]


def parsed(image: dict[str, Any], *annotations: Any) -> Record:
    return parse_record({"image": image, "annotations": list(annotations)}, place="c.json, images[0]")


def test_an_image_with_captions_is_a_record() -> None:
    record = parsed({"id": 3, "file_name": "a.jpg"}, {"caption": " One. "}, {"caption": "Two"})
    assert record == Record("3", ("One.", "Two"), image="a.jpg")


@pytest.mark.parametrize(
    ("image", "annotations", "message"),
    [
        ({"id": 3}, [{"caption": "x"}], "field 'file_name': got nothing; it must be the path of the image"),
        (
            {"id": 3, "file_name": "a.jpg"},
            [],
            "field 'caption': got nothing; the image has no annotation with a caption; add one, or remove it",
        ),
        ({"id": 3, "file_name": "a.jpg"}, [{"caption": " "}], "field 'caption': got ' '; it must not be"),
        ({"id": 3, "file_name": "a.jpg"}, [{"id": 5}], "field 'caption': got nothing; it must be a string"),
        (
            {"id": 3, "file_name": "a.jpg"},
            [{"caption": "x"}, "y"],
            "field 'annotations[1]': got 'y'; it must be an object with a 'caption'",
        ),
    ],
)
def test_a_bad_image_or_caption_is_named(image: dict[str, Any], annotations: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match="c.json") as caught:
        parsed(image, *annotations)
    assert str(caught.value).startswith(f"c.json, images[0] (id '3'): {message}")
