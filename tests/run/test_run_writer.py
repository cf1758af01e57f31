"""The atomic writer: whole or absent, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from run_kit import Killed

from lit_cvit.run import Writer, read_json, read_jsonl, read_tensors


class FailAt:
    """Raises at one event of every write."""

    def __init__(self, event: str, error: BaseException) -> None:
        self.event = event
        self.error = error

    def __call__(self, event: str, path: Path) -> None:
        if event == self.event:
            raise self.error


def write_all_kinds(writer: Writer, folder: Path, value: int) -> dict[str, Callable[[], None]]:
    return {
        "bytes": lambda: writer.write_bytes(folder / "bytes", bytes([value, value])),
        "text": lambda: writer.write_text(folder / "text", f"{value}\n"),
        "json": lambda: writer.write_json(folder / "json", {"value": value}),
        "tensors": lambda: writer.write_tensors(folder / "tensors", {"x": torch.full((3,), value)}),
        "stream": lambda: writer.write_with(folder / "stream", lambda file: file.write(b"%d" % value)),
    }


KINDS = ("bytes", "text", "json", "tensors", "stream")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("event", "new"), [("before", False), ("middle", False), ("after", True)])
def test_a_killed_write_leaves_the_old_or_the_new_file_whole(
    tmp_path: Path, kind: str, event: str, new: bool
) -> None:
    write_all_kinds(Writer(), tmp_path, 1)[kind]()
    old = (tmp_path / kind).read_bytes()
    write_all_kinds(Writer(), tmp_path / "other", 2)[kind]()
    with pytest.raises(Killed):
        write_all_kinds(Writer(fault=FailAt(event, Killed())), tmp_path, 2)[kind]()
    expected = (tmp_path / "other" / kind).read_bytes() if new else old
    assert (tmp_path / kind).read_bytes() == expected


def test_a_reader_of_the_old_file_is_not_disturbed_by_the_new_one(tmp_path: Path) -> None:
    Writer().write_text(tmp_path / "a", "old")
    with (tmp_path / "a").open() as reader:
        Writer().write_text(tmp_path / "a", "new")
        assert reader.read() == "old"


def test_the_content_is_on_the_disk_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    Writer().write_text(tmp_path / "a", "new")
    assert calls == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_write_after_a_killed_one_succeeds_and_leaves_one_file(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Killed):
        write_all_kinds(Writer(fault=FailAt("middle", Killed())), tmp_path, 1)[kind]()
    write_all_kinds(Writer(), tmp_path, 2)[kind]()
    assert [path.name for path in tmp_path.iterdir()] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_names_the_file_and_leaves_no_half_file(tmp_path: Path, kind: str) -> None:
    full = FailAt("middle", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="cannot write: No space left on device") as caught:
        write_all_kinds(Writer(fault=full), tmp_path, 1)[kind]()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / kind)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    Writer().write_text(tmp_path / "a", "old")
    broken = FailAt("before", OSError(errno.EROFS, os.strerror(errno.EROFS)))
    with pytest.raises(OSError, match="Read-only") as caught:
        Writer(fault=broken).write_text(tmp_path / "a", "new")
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"


def test_sigkill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    Writer().write_text(tmp_path / "a", "old")
    child = os.fork()
    if child == 0:

        def kill(event: str, path: Path) -> None:
            if event == "middle":
                os.kill(os.getpid(), signal.SIGKILL)

        Writer(fault=kill).write_text(tmp_path / "a", "new" * 100_000)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    Writer().clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_every_write_reports_before_middle_after_with_its_path(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    writer = Writer(fault=lambda event, path: seen.append((event, path.name)))
    for write in write_all_kinds(writer, tmp_path, 1).values():
        write()
    writer.append_line(tmp_path / "lines", {"a": 1})
    events = ("before", "middle", "after")
    assert seen == [(event, name) for name in (*KINDS, "lines") for event in events]


def test_a_disabled_writer_writes_nothing(tmp_path: Path) -> None:
    writer = Writer(enabled=False)
    for write in write_all_kinds(writer, tmp_path, 1).values():
        write()
    writer.append_line(tmp_path / "lines", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("event", "rows"),
    [("before", [1]), ("middle", [1]), ("after", [1, 2])],
    ids=["before", "middle", "after"],
)
def test_a_torn_last_line_is_dropped_and_the_next_append_starts_a_line(
    tmp_path: Path, event: str, rows: list[int]
) -> None:
    path = tmp_path / "log.jsonl"
    Writer().append_line(path, {"step": 1})
    with pytest.raises(Killed):
        Writer(fault=FailAt(event, Killed())).append_line(path, {"step": 2})
    assert [row["step"] for row in read_jsonl(path)] == rows
    Writer().append_line(path, {"step": 3})
    assert path.read_text() == "".join(f'{{"step": {step}}}\n' for step in [*rows, 3])


def test_a_full_disk_in_the_middle_of_a_line_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Writer().append_line(path, {"step": 1})
    full = FailAt("middle", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        Writer(fault=full).append_line(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n'


def test_damage_before_the_last_line_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: not a JSON object"):
        list(read_jsonl(path))


def test_a_missing_jsonl_file_has_no_rows(tmp_path: Path) -> None:
    assert list(read_jsonl(tmp_path / "none.jsonl")) == []


def test_truncate_keeps_the_rows_asked_for_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step":1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert Writer().truncate_jsonl(path, lambda row: row["step"] <= 2) == 1
    assert path.read_bytes() == b'{"step":1}\n{"step": 2}\n'


@pytest.mark.parametrize(("event", "left"), [("before", 3), ("middle", 3), ("after", 1)])
def test_a_killed_truncation_leaves_all_rows_or_the_kept_ones(tmp_path: Path, event: str, left: int) -> None:
    path = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        Writer().append_line(path, {"step": step})
    with pytest.raises(Killed):
        Writer(fault=FailAt(event, Killed())).truncate_jsonl(path, lambda row: row["step"] < 2)
    assert len(list(read_jsonl(path))) == left


def test_lines_reach_the_disk_every_n_lines_and_on_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(lines_per_sync=3)
    writer.append_line(tmp_path / "log", {"step": 0})
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    counts = []
    for step in range(1, 6):
        writer.append_line(tmp_path / "log", {"step": step})
        counts.append(len(calls))
    assert counts == [0, 1, 1, 1, 2]
    writer.append_line(tmp_path / "log", {"step": 6})
    writer.sync()
    writer.sync()
    assert len(calls) == 3


def test_lines_per_sync_must_be_positive() -> None:
    with pytest.raises(ValueError, match="lines_per_sync must be 1 or more, got 0"):
        Writer(lines_per_sync=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": torch.ones(1)}}, r"x\.json\.a\.b is a Tensor"),
        ({"a": [{1: 2}]}, r"x\.json\.a\[0\]: key 1 is a int"),
        ({"a": {1, 2}}, r"x\.json\.a is a set"),
    ],
)
def test_json_refuses_what_it_would_lose(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Writer().write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_json_keeps_text_and_non_finite_numbers(tmp_path: Path) -> None:
    value = {"text": "caf\u00e9 \ud83c", "best": float("inf"), "tuple": [1, 2.5, None, True]}
    Writer().write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_tensors_keep_dtype_shape_and_bits_also_when_they_share_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "base": base,
        "row": base[1],
        "turned": base.T,
        "half": base.bfloat16(),
        "one": torch.tensor(7),
    }
    Writer().write_tensors(tmp_path / "x", tensors)
    loaded = read_tensors(tmp_path / "x")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_equal_tensors_give_equal_bytes_whatever_their_order(tmp_path: Path) -> None:
    Writer().write_tensors(tmp_path / "1", {"b": torch.ones(2), "a": torch.zeros(3)})
    Writer().write_tensors(tmp_path / "2", {"a": torch.zeros(3), "b": torch.ones(2)})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_reading_names_a_missing_or_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(json.dumps({"a": 1}).encode()[:-1])
    with pytest.raises(ValueError, match="none is missing"):
        read_json(tmp_path / "none")
    with pytest.raises(ValueError, match="bad is not valid JSON"):
        read_json(tmp_path / "bad")
    with pytest.raises(ValueError, match="none is missing"):
        read_tensors(tmp_path / "none")
    with pytest.raises(ValueError, match="bad is not a valid safetensors file"):
        read_tensors(tmp_path / "bad")


def test_content_that_fails_half_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    Writer().write_text(tmp_path / "a", "old")

    def fail(file: BinaryIO) -> None:
        file.write(b"ne")
        raise ValueError("no more content")

    with pytest.raises(ValueError, match="no more content"):
        Writer().write_with(tmp_path / "a", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
