"""Writing one task: draws, limits, manifests, and when a task is made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from raw_kit import CVIT, rows_of, touch, write

from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Request, Row, Split, most_frequent_first
from lit_cvit.data.prepare.writing import HALF_CHARACTER, NO_ANSWER, prepare_task, read_manifest
from lit_cvit.data.records.file import RecordFile

FILE = Raw("Made/rows.json", "rows", "nowhere")
IMAGES = Raw("Made/images/", "images", "nowhere")


def row(number: int, **changes: Any) -> Row:
    return {
        "id": str(number),
        "image": f"images/{number % 4}.png",
        "answers": [f"class {number % 5}"],
        **changes,
    }


def converter(rows: Callable[[], list[Row | Dropped]], **settings: Any) -> Converter:
    def given(raw: Path) -> Iterator[Row | Dropped]:
        yield from rows()

    drops = settings.pop("drops_missing_images", False)
    split = Split(given, (FILE, IMAGES), **settings)
    return Converter("Made", "Made up", "Made", {"x": {"test": split}}, drops)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    write(tmp_path / "raw/Made/rows.json", [1])
    touch(*(tmp_path / f"raw/Made/images/{number}.png" for number in range(4)))
    return Request("x", tmp_path / "raw", tmp_path / "out")


def ids(request: Request) -> list[str]:
    return [each["id"] for each in rows_of(request.out / "Made/test.jsonl")]


def run(made: Converter, request: Request) -> tuple[dict[str, Any], bool]:
    return prepare_task(made, request, lambda number: None)


def test_rows_are_written_as_they_come_and_the_manifest_says_what_they_are(request_: Request) -> None:
    made = converter(
        lambda: [row(0, question="\u00e9?"), Dropped("odd"), row(1), Dropped("odd")], published=3, note="why"
    )
    manifest, was_there = run(made, request_)
    path = request_.out / "Made/test.jsonl"
    assert not was_there
    assert rows_of(path) == [row(0, question="\u00e9?"), row(1)]
    assert manifest == {
        "task": "Made",
        "data_set": "Made up",
        "benchmark": "x",
        "image_root": "../../raw/Made",
        "raw": {"Made/rows.json": blake2b(b"[1]", digest_size=16).hexdigest()},
        "limit": 0,
        "without_images": False,
        "version": 2,
        "splits": {
            "test": {
                "records": 2,
                "found": 2,
                "dropped": {"odd": 2},
                "digest": RecordFile(path).digest(),
                "published": 3,
                "draw": "",
                "note": "why",
            }
        },
    }
    assert read_manifest(request_.out / "Made") == manifest
    assert sorted(each.name for each in (request_.out / "Made").iterdir()) == ["manifest.json", "test.jsonl"]


def test_rows_without_an_answer_or_with_half_a_character_are_counted(request_: Request) -> None:
    made = converter(
        lambda: [row(0, answers=[]), row(1, answers=[" ", "a"]), row(2, question="\ud800"), row(3)]
    )
    manifest, _ = run(made, request_)
    assert manifest["splits"]["test"]["dropped"] == {NO_ANSWER: 2, HALF_CHARACTER: 1}
    assert ids(request_) == ["3"]


@pytest.mark.parametrize(
    ("settings", "group", "most", "total"),
    [
        ({"per_image": 1}, "image", 1, 4),
        ({"per_image": 3}, "image", 3, 12),
        ({"per_class": 2}, "answers", 2, 10),
        ({"draw": 7}, "id", 1, 7),
        ({"per_image": 3, "draw": 5}, "image", 3, 5),
        ({"draw": 1000}, "id", 1, 40),
    ],
)
def test_a_draw_keeps_so_many_of_each_in_file_order(
    request_: Request, settings: dict[str, int], group: str, most: int, total: int
) -> None:
    run(converter(lambda: [row(number) for number in range(40)], **settings), request_)
    rows = rows_of(request_.out / "Made/test.jsonl")
    counts = [str(each[group]) for each in rows]
    assert max(map(counts.count, counts)) == most
    assert len(rows) == total
    assert [int(each["id"]) for each in rows] == sorted(int(each["id"]) for each in rows)


def test_a_draw_is_always_the_same_and_larger_ones_hold_smaller_ones(request_: Request) -> None:
    drawn = {}
    for number in (3, 8):
        run(converter(lambda: [row(number) for number in range(40)], draw=number), request_)
        drawn[number] = ids(request_)
        (request_.out / "Made/manifest.json").unlink()
    assert set(drawn[3]) < set(drawn[8])
    assert drawn[3] == ["16", "33", "36"]


def test_the_image_root_leads_to_the_images_from_behind_a_link(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    linked = Request("x", request_.raw, tmp_path / "link")
    manifest, _ = run(converter(lambda: [row(0)]), linked)
    assert (linked.out / "Made" / manifest["image_root"] / "images/0.png").is_file()


def test_a_limit_takes_the_first_rows_and_reads_no_further(request_: Request) -> None:
    def rows() -> Iterator[Row | Dropped]:
        yield from (row(0), Dropped("odd"), row(1))
        raise AssertionError("read too far")

    made = converter(rows, per_image=1)  # type: ignore[arg-type]
    limited = Request("x", request_.raw, request_.out, limit=2)
    manifest, _ = run(made, limited)
    assert ids(limited) == ["0", "1"]
    assert manifest["splits"]["test"]["draw"] == "the first 2, for a trial"


def test_missing_images_are_an_error_that_counts_them_and_leaves_no_split(request_: Request) -> None:
    (request_.raw / "Made/images/2.png").unlink()
    made = converter(lambda: [row(number) for number in range(8)])
    with pytest.raises(
        ValueError, match=r"test split: 2 of 8 records name images .*, such as images/2\.png;"
    ):
        run(made, request_)
    assert list((request_.out / "Made").iterdir()) == []
    run(made, Request("x", request_.raw, request_.out, without_images=True))
    assert len(ids(request_)) == 8


def test_images_that_lie_a_folder_deeper_are_named_with_their_place(request_: Request) -> None:
    images = request_.raw / "Made/images"
    (images / "images").mkdir()
    (images / "2.png").rename(images / "images/2.png")
    with pytest.raises(
        ValueError, match=r"there is .*/images/images/2\.png: move what is in that folder up$"
    ):
        run(converter(lambda: [row(2)]), request_)


def test_images_of_rows_that_are_not_drawn_may_be_missing(request_: Request) -> None:
    (request_.raw / "Made/images/2.png").unlink()
    run(converter(lambda: [row(0), row(4), row(2)], draw=1), request_)
    assert ids(request_) == ["0"]


def test_rows_of_images_that_may_be_missing_are_dropped_before_the_draw(request_: Request) -> None:
    (request_.raw / "Made/images/0.png").unlink()
    manifest, _ = run(converter(lambda: [row(0), row(2)], draw=1, drops_missing_images=True), request_)
    assert ids(request_) == ["2"]
    assert manifest["splits"]["test"]["dropped"] == {"image file missing": 1}


def test_a_split_without_a_record_is_an_error_that_says_what_was_dropped(request_: Request) -> None:
    with pytest.raises(ValueError, match=r"^test split: no record is left; dropped 1: odd$"):
        run(converter(lambda: [Dropped("odd")]), request_)


def test_a_complete_task_is_left_alone(request_: Request) -> None:
    first, _ = run(converter(lambda: [row(0)]), request_)
    before = (request_.out / "Made/test.jsonl").stat().st_mtime_ns
    again, was_there = run(converter(lambda: [row(0), row(1)]), request_)
    assert (again, was_there) == (first, True)
    assert (request_.out / "Made/test.jsonl").stat().st_mtime_ns == before


def change_raw(request: Request) -> None:
    write(request.raw / "Made/rows.json", [1, 2])


def cut_split(request: Request) -> None:
    (request.out / "Made/test.jsonl").write_text("")


def lose_split(request: Request) -> None:
    (request.out / "Made/test.jsonl").unlink()


def break_manifest(request: Request) -> None:
    (request.out / "Made/manifest.json").write_text('{"task": ')


def older_version(request: Request) -> None:
    path = request.out / "Made/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))


@pytest.mark.parametrize("change", [change_raw, cut_split, lose_split, break_manifest, older_version])
def test_a_task_is_made_again_when_its_raw_files_or_its_records_changed(
    request_: Request, change: Callable[[Request], None]
) -> None:
    run(converter(lambda: [row(0)]), request_)
    change(request_)
    _, was_there = run(converter(lambda: [row(0), row(1)]), request_)
    assert not was_there
    assert ids(request_) == ["0", "1"]


def test_a_trial_is_not_taken_for_the_whole(request_: Request) -> None:
    made = converter(lambda: [row(0), row(1)])
    run(made, Request("x", request_.raw, request_.out, limit=1))
    run(made, request_)
    assert ids(request_) == ["0", "1"]


def test_an_interrupt_leaves_no_file_under_its_final_name(request_: Request) -> None:
    def rows() -> Iterator[Row | Dropped]:
        yield row(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(converter(rows), request_)  # type: ignore[arg-type]
    assert list((request_.out / "Made").iterdir()) == []
    _, was_there = run(converter(lambda: [row(0)]), request_)
    assert (was_there, ids(request_)) == (False, ["0"])


def test_a_file_name_in_a_listed_folder_is_part_of_the_raw_digests(tmp_path: Path) -> None:
    CVIT["ImageNet"](tmp_path / "raw")
    [imagenet] = converters_of("cvit", ["ImageNet"])
    request = Request("cvit", tmp_path / "raw", tmp_path / "out")
    before, _ = prepare_task(imagenet, request, lambda number: None)
    touch(tmp_path / "raw/ImageNet/train/n00000000/n00000000_11.JPEG")
    after, was_there = prepare_task(imagenet, request, lambda number: None)
    assert not was_there
    assert after["splits"]["train"]["found"] == before["splits"]["train"]["found"] + 1
    assert before["raw"]["ImageNet/classes.txt"] == ""


def test_the_most_frequent_answer_comes_first_and_the_earliest_of_equals() -> None:
    assert most_frequent_first(["b", "a", "a", "b", "c"]) == ["b", "b", "a", "a", "c"]
    assert most_frequent_first([]) == []
