from __future__ import annotations

import hashlib
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records import index as record_index
from lit_cvit.data.records import saved as record_saved
from lit_cvit.data.records.file import RecordFile

LINES = '{"id": 1}\n\n{"id": 2}\n'
FORMS = {
    "a.jsonl": LINES,
    "b.json": '[{"id": 1}, {"id": 2}]',
    "c.json": '{"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 2}, {"image_id": 1}]}',
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file is worth an index, and its times are trusted at once."""
    monkeypatch.setattr(record_index, "SAVED_FROM", 1)
    monkeypatch.setattr(record_saved, "_UNSETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit_cvit" / "indexes"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the content of a file, in order."""
    done: list[str] = []
    for name in ("_scan", "content_digest"):
        real = getattr(record_index, name)

        def counting(*args: Any, _real: Any = real, _name: str = name) -> Any:
            done.append(_name)
            return _real(*args)

        monkeypatch.setattr(record_index, name, counting)
    return done


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def index_of(path: Path) -> Path:
    return path.with_name(path.name + ".index.npy")


def ids(file: RecordFile) -> list[Any]:
    return [file[index].get("id") for index in range(len(file))]


@pytest.mark.parametrize("name", FORMS)
def test_a_saved_index_reads_the_same_without_looking_at_the_content(
    tmp_path: Path, calls: list[str], name: str
) -> None:
    path = write(tmp_path / name, FORMS[name])
    first = RecordFile(path)
    assert calls == ["content_digest", "_scan"]
    again = RecordFile(path)
    assert calls == ["content_digest", "_scan"]
    assert [again[at] for at in range(2)] == [first[at] for at in range(2)]
    assert [again.where(at) for at in range(2)] == [first.where(at) for at in range(2)]
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert again.digest() == first.digest() == digest


def test_offsets_are_mapped_and_a_worker_gets_the_path_alone(tmp_path: Path) -> None:
    rows = "".join(f'{{"id": {number}}}\n' for number in range(5000))
    file = RecordFile(write(tmp_path / "a.jsonl", rows))
    dumped = pickle.dumps(file)
    assert len(dumped) < 600
    for each in (file, pickle.loads(dumped)):
        starts = each._open().starts
        assert not starts.flags.owndata
        assert not starts.flags.writeable
        assert each[4999] == {"id": 4999}


def test_a_changed_file_is_scanned_again(tmp_path: Path, calls: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    RecordFile(path)
    write(path, LINES + '{"id": 3}')
    assert ids(RecordFile(path)) == [1, 2, 3]
    assert calls == ["content_digest", "_scan"] * 2


def test_a_change_of_equal_size_and_modification_time_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": 1}\n{"id": 22}\n')
    RecordFile(path)
    times = path.stat()
    write(path, '{"id": 11}\n{"id": 2}\n')
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert ids(RecordFile(path)) == [11, 2]


def test_a_touched_file_is_hashed_once_and_keeps_its_index(tmp_path: Path, calls: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    RecordFile(path)
    os.utime(path, ns=(0, 0))
    for _ in range(2):
        assert ids(RecordFile(path)) == [1, 2]
    assert calls == ["content_digest", "_scan", "content_digest"]


def test_times_of_the_last_two_seconds_are_not_trusted(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_saved, "_UNSETTLED_NS", 2_000_000_000)
    path = write(tmp_path / "a.jsonl", LINES)
    for _ in range(2):
        RecordFile(path)
    assert calls == ["content_digest", "_scan", "content_digest"]


@pytest.mark.parametrize("keep", [0, 20, 100, -8])
def test_a_torn_index_is_made_anew(tmp_path: Path, calls: list[str], keep: int) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    RecordFile(path)
    whole = index_of(path).read_bytes()
    index_of(path).write_bytes(whole[:keep])
    assert ids(RecordFile(path)) == [1, 2]
    assert calls.count("_scan") == 2
    assert index_of(path).read_bytes() == whole


def test_an_index_with_a_flipped_bit_is_made_anew(tmp_path: Path, calls: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    RecordFile(path)
    whole = bytearray(index_of(path).read_bytes())
    whole[-1] ^= 1
    index_of(path).write_bytes(whole)
    assert ids(RecordFile(path)) == [1, 2]
    assert calls.count("_scan") == 2


@pytest.mark.parametrize(("at", "byte"), [(8, 1), (22, ord("0"))])
def test_an_index_with_a_broken_header_is_made_anew(
    tmp_path: Path, calls: list[str], at: int, byte: int
) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    RecordFile(path)
    whole = bytearray(index_of(path).read_bytes())
    whole[at] = byte
    index_of(path).write_bytes(whole)
    assert ids(RecordFile(path)) == [1, 2]
    assert calls.count("_scan") == 2


def test_an_archive_in_place_of_an_index_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    index_of(path).write_bytes(b"PK\x03\x04 cut off")
    assert ids(RecordFile(path)) == [1, 2]
    assert np.load(index_of(path))[0] == record_saved.VERSION


def test_a_foreign_file_in_place_of_an_index_is_replaced(tmp_path: Path) -> None:
    for name, values in (("a.jsonl", np.zeros(3)), ("b.jsonl", np.zeros(50, np.int64))):
        path = write(tmp_path / name, LINES)
        np.save(index_of(path), values)
        assert ids(RecordFile(path)) == [1, 2]
        assert np.load(index_of(path))[0] == record_saved.VERSION
    other = write(tmp_path / "c.jsonl", '{"id": 7}\n')
    index_of(other).write_bytes(index_of(path).read_bytes())
    assert ids(RecordFile(other)) == [7]


def test_an_index_has_the_rights_of_its_data_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "a.jsonl", LINES)
    path.chmod(0o640)
    RecordFile(path)
    assert index_of(path).stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in path.parent.iterdir()) == ["a.jsonl", "a.jsonl.index.npy"]


def test_an_index_that_cannot_lie_beside_its_data_is_cached(
    tmp_path: Path, cache: Path, calls: list[str]
) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    index_of(path).mkdir()  # a place that no file can take, whoever runs the test
    assert ids(RecordFile(path)) == [1, 2]
    calls.clear()
    assert ids(RecordFile(path)) == [1, 2]
    assert calls == []
    assert [each.suffix for each in cache.iterdir()] == [".npy"]


def test_an_index_that_cannot_be_saved_is_warned_of(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    index_of(path).mkdir()
    cache.parent.parent.write_text("no folder")
    with pytest.warns(UserWarning, match=r"a\.jsonl: its index cannot be saved, so the file is sc"):
        file = RecordFile(path)
    assert ids(file) == [1, 2]


def test_a_small_file_has_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_index, "SAVED_FROM", len(LINES) + 1)
    path = write(tmp_path / "a.jsonl", LINES)
    assert ids(RecordFile(path)) == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


LIST = '[{"id": 1},\n {"id":\r\n 2,\n  "x": "a\\nb"}]'


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index.*.jsonl"))


def test_a_list_is_copied_once_as_lines_spelled_as_they_were(tmp_path: Path, calls: list[str]) -> None:
    path = write(tmp_path / "a.json", LIST)
    path.chmod(0o640)
    first = RecordFile(path)
    (copy,) = copies(tmp_path)
    assert copy.name == f"a.json.index.{first.digest()}.jsonl"
    assert copy.read_text() == '{"id": 1}\n{"id":   2,   "x": "a\\nb"}\n'
    assert copy.stat().st_mode & 0o777 == 0o640
    calls.clear()
    assert [RecordFile(path)[at] for at in range(2)] == [{"id": 1}, {"id": 2, "x": "a\nb"}]
    assert calls == []
    assert {each.name for each in tmp_path.iterdir()} == {"a.json", "a.json.index.npy", copy.name}


@pytest.mark.parametrize("name", ["b.json", "c.json"])
def test_errors_name_the_file_that_was_given_and_not_its_copy(tmp_path: Path, name: str) -> None:
    file = RecordFile(write(tmp_path / name, FORMS[name]))
    place = f"{tmp_path / name}, " + ("index 1" if name == "b.json" else "images[1]")
    assert file.where(1) == place
    (copy,) = copies(tmp_path)
    copy.write_bytes(copy.read_bytes().replace(b"}", b"!"))
    with pytest.raises(RecordError) as caught:
        file[1]
    assert (caught.value.place, caught.value.cause) == (place, "broken JSON")
    assert caught.value.fix == f"its copy as lines is damaged; delete {copy}"


@pytest.mark.parametrize("keep", [None, 0, 12])
def test_a_copy_that_is_missing_or_cut_short_is_made_anew(
    tmp_path: Path, calls: list[str], keep: int | None
) -> None:
    path = write(tmp_path / "a.json", LIST)
    RecordFile(path)
    (copy,) = copies(tmp_path)
    whole = copy.read_bytes()
    if keep is None:
        copy.unlink()
    else:
        copy.write_bytes(whole[:keep])
    assert ids(RecordFile(path)) == [1, 2]
    assert calls.count("_scan") == 2
    assert copy.read_bytes() == whole


def test_a_changed_list_is_copied_anew_and_its_earlier_copy_removed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", LIST)
    before = RecordFile(path)
    mine = write(tmp_path / "a.json.index.mine.jsonl", "kept")
    write(path, '[{"id": 3}]')
    after = RecordFile(path)
    assert ids(after) == [3]
    assert copies(tmp_path) == sorted([mine, tmp_path / f"a.json.index.{after.digest()}.jsonl"])
    assert ids(before) == [1, 2]  # who has the earlier copy open keeps it


@pytest.mark.parametrize("name", ["b.json", "c.json"])
def test_a_copy_that_finds_no_folder_is_a_temporary_file(tmp_path: Path, cache: Path, name: str) -> None:
    path = write(tmp_path / name, FORMS[name])
    index_of(path).mkdir()
    cache.parent.parent.write_text("no folder")
    with pytest.warns(UserWarning, match=r"\.json: its index cannot be saved"):
        file = RecordFile(path)
    assert copies(tmp_path) == []
    worker = pickle.loads(pickle.dumps(file))
    with pytest.warns(UserWarning, match=r"\.json: its index cannot be saved"):
        assert len(worker) == 2
    assert [worker[at] for at in range(2)] == [file[at] for at in range(2)]


def test_a_small_list_leaves_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_index, "SAVED_FROM", len(LIST) + 1)
    path = write(tmp_path / "a.json", LIST)
    assert ids(RecordFile(path)) == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_copy_a_list_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one begins and ends between each two steps of the first."""
    path = write(tmp_path / "a.json", LIST)
    real, depth = record_index._publish, 0

    def interrupted(*args: Any) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            assert ids(RecordFile(path)) == [1, 2]
        real(*args)
        if depth == 1:
            assert ids(RecordFile(path)) == [1, 2]
        depth -= 1

    monkeypatch.setattr(record_index, "_publish", interrupted)
    assert ids(RecordFile(path)) == [1, 2]
    assert len(copies(tmp_path)) == 1


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", LIST)
    left, young = tmp_path / ".lit_cvit-index-old", tmp_path / ".lit_cvit-index-new"
    for folder in (left, young):
        write(folder / "copy", "half of it")
    os.utime(left, (time.time() - 3700, time.time() - 3700))
    RecordFile(path)
    assert (left.exists(), young.exists()) == (False, True)


def test_a_worker_refuses_a_file_of_equal_size_that_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    dumped = pickle.dumps(RecordFile(path))
    write(path, LINES.replace("2", "3"))
    with pytest.raises(ValueError, match=r"a\.jsonl: changed while in use; start again with the file"):
        len(pickle.loads(dumped))


def test_a_file_cut_short_while_it_is_read_is_an_error_of_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    file = RecordFile(path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: broken JSON"):
        file[1]
