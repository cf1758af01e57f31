from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cvit.data.records import cursor as record_cursor
from lit_cvit.data.records.file import RecordFile

ROWS = [{"id": "a"}, {"id": "\u00e9\u4f60\U0001f600", "n": [1, {"x": "]},{"}]}, {}]


def rows_of(file: RecordFile) -> list[dict[str, object]]:
    return [file[index] for index in range(len(file))]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def message_of(path: Path, index: int | None = None) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        RecordFile(path) if index is None else RecordFile(path)[index]
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_gives_back_its_rows(tmp_path: Path, escaped: bool, indent: int | None) -> None:
    text = json.dumps(ROWS, ensure_ascii=escaped, indent=indent)
    assert rows_of(RecordFile(write(tmp_path / "a.json", text))) == ROWS


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_jsonl_gives_back_its_rows(tmp_path: Path, ending: str, last: bool) -> None:
    text = ending.join(json.dumps(row, ensure_ascii=False) for row in ROWS) + (ending if last else "")
    assert rows_of(RecordFile(write(tmp_path / "a.jsonl", text))) == ROWS


@pytest.mark.parametrize("text", ['[{"id": "\u00e9"}, {"id": 2}]', '{"id": "\u00e9"}\n{"id": 2}\n'])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, text: str) -> None:
    file = RecordFile(write(tmp_path / "a.json", b"\xef\xbb\xbf" + text.encode()))
    assert rows_of(file) == [{"id": "\u00e9"}, {"id": 2}]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())), min_size=1),
    as_list=st.booleans(),
    escaped=st.booleans(),
)
def test_any_rows_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], as_list: bool, escaped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    try:
        write(path, "[" + ",".join(lines) + "]" if as_list else "\n".join(lines))
    except UnicodeEncodeError:  # half of a surrogate pair cannot be written unescaped
        return
    assert rows_of(RecordFile(path)) == rows


def test_lines_are_found_across_scan_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_cursor, "_WINDOW", 7)
    rows = [{"id": number} for number in range(50)]
    file = RecordFile(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert rows_of(file) == rows


def test_blank_lines_are_skipped_and_line_numbers_stay_true(tmp_path: Path) -> None:
    file = RecordFile(write(tmp_path / "a.jsonl", '{"id": 1}\n\n   \n{"id": 2}\n  {"id": 3}\n\n'))
    assert rows_of(file) == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert [file.where(index) for index in range(3)] == [f"{file.path}, line {line}" for line in (1, 4, 5)]


def test_places_count_lines_from_1_and_list_elements_from_0(tmp_path: Path) -> None:
    lines = RecordFile(write(tmp_path / "a.jsonl", "{}\n{}"))
    listed = RecordFile(write(tmp_path / "a.json", "[{}, {}]"))
    assert lines.where(1) == f"{lines.path}, line 2"
    assert listed.where(1) == f"{listed.path}, index 1"


@pytest.mark.parametrize("text", ['[{"id": 1}, {"id": "\u00e9"}]', '{"id": 1}\n\n{"id": "\u00e9"}'])
def test_a_pickled_file_reads_the_same(tmp_path: Path, text: str) -> None:
    file = RecordFile(write(tmp_path / "a.json", text))
    first = rows_of(file)
    copy = pickle.loads(pickle.dumps(file))
    assert rows_of(copy) == first == [{"id": 1}, {"id": "\u00e9"}]
    assert copy.where(1) == file.where(1)


def test_a_file_that_changed_after_the_scan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "{}\n{}")
    dumped = pickle.dumps(RecordFile(path))
    write(path, "{}")
    with pytest.raises(ValueError, match=r"a\.jsonl: changed while in use, from 5 to 2 bytes"):
        pickle.loads(dumped)[0]


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    one = RecordFile(write(tmp_path / "a.json", "[{}]")).digest()
    assert RecordFile(write(tmp_path / "b.json", "[{}]")).digest() == one
    assert RecordFile(write(tmp_path / "c.json", "[{} ]")).digest() != one
    assert len(one) == 32


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_out_of_range_is_refused(tmp_path: Path, index: int) -> None:
    file = RecordFile(write(tmp_path / "a.jsonl", "{}\n{}"))
    with pytest.raises(IndexError, match=rf"has records 0 to 1, got {index}"):
        file[index]


FORMS = "a record file is a JSON list of objects, or JSONL with one object a line, in UTF-8"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", f": the file is empty, it needs at least one record; {FORMS}"),
        (" \n\n", f": the file is empty, it needs at least one record; {FORMS}"),
        ("[]", ": the list is empty, it needs at least one record"),
        ("id,image\n", f": the file starts with b'i'; {FORMS}"),
        ("[{}]".encode("utf-16"), f": the file starts with b'\\xff'; {FORMS}"),
        ("[{}, 7]", ", index 1: got 7; a record is a JSON object {...}"),
        ('[{"a": 1},\n {"a": }]', ": broken JSON at line 2, column 8: Expecting value"),
        ("[{}\n {}]", ": broken JSON at line 2, column 2: Expecting ',' or ']'"),
        ("[{}, ]", ": broken JSON at line 1, column 6: Expecting value"),
        ("[{},\n{}", ": broken JSON at line 2, column 3: Expecting ',' or ']'"),
        ("[{}]\n[{}]", ": broken JSON at line 2, column 1: Extra data after the list"),
        (b'[{"a": "\xe9"}]', f": not UTF-8 at byte 8; {FORMS}"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message_of(write(tmp_path / "a.json", content)) == message


def test_json_nested_too_deep_is_refused_with_its_place(tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
    assert message_of(write(tmp_path / "a.json", f"[{{}}, {deep}]")).startswith(
        ", index 1: unreadable JSON: "
    )
    assert message_of(write(tmp_path / "b.jsonl", f"{{}}\n{deep}"), 1).startswith(
        ", line 2: unreadable JSON: "
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": }', f"broken JSON at column 7: Expecting value; {FORMS}"),
        (b'{"a": 1} x', f"broken JSON at column 10: Extra data; {FORMS}"),
        (b'{"a": "\xe9"}', f"not UTF-8 at byte 7; {FORMS}"),
        (b"[1]", "got [1]; a record is a JSON object {...}"),
    ],
)
def test_a_broken_line_is_refused_when_it_is_read(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path / "a.jsonl", b"{}\n\n" + line + b"\n{}")
    assert message_of(path, 1) == f", line 3: {message}"
    assert RecordFile(path)[2] == {}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.json") == f": no such file; {FORMS}"
