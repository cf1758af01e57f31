"""Reading a large JSON file member by member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_cvit.data.prepare.base import entries, read_jsonl
from lit_cvit.data.prepare.scanning import members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    top=st.dictionaries(st.text(min_size=1), VALUES, max_size=5),
    indent=st.sampled_from([None, 2]),
    ascii_=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_members_are_those_that_the_json_module_reads(
    tmp_path: Path, top: dict[str, Any], indent: int | None, ascii_: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(top, indent=indent, ensure_ascii=ascii_), encoding="utf-8", errors="surrogatepass"
    )
    assert dict(members(path)) == top
    for key, value in top.items():
        if isinstance(value, list):
            assert [each for _, each in members(path, key)] == value
        if isinstance(value, dict):
            assert dict(members(path, key)) == value


def test_members_of_a_list_are_named_by_their_position(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf [ {"a": 1} , 2 ]\n')
    assert list(members(path)) == [("0", {"a": 1}), ("1", 2)]


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (b'{"a": [1, 2', "a", "a.json: not the JSON file it should be"),
        (b'{"a": 1}', "b", "No field 'b' in the top object"),
        (b'{"a": 1}', "a", r"Expecting '\{'"),
        (b"<html>", "", r"Expecting '\{': line 1 column 1"),
        (b'[{"a": 1} {"a": 2}]', "", "Expecting ',': line 1 column 11"),
        (b"\xff\xfe{", "", "a.json: not a text file in UTF-8"),
        (b"", "", "a.json: not the JSON file it should be"),
    ],
)
def test_what_is_no_such_json_is_named_with_its_place(
    tmp_path: Path, content: bytes, key: str, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(members(path, key))


def test_an_entry_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"data": [{"x": 1}, 7]}')
    with pytest.raises(ValueError, match=r"a\.json, data\[1\]: got 7; it must be an object"):
        list(entries(path, {"x": int}, "data"))


def test_a_field_may_have_one_of_two_types(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"x": null}, {"x": "a"}, {"x": 1}]')
    found = entries(path, {"x": (str, type(None))})
    assert [next(found), next(found)] == [("0", {"x": None}), ("1", {"x": "a"})]
    with pytest.raises(ValueError, match=r"\[2\]: field 'x' must be a string or null, got 1"):
        next(found)


def test_a_broken_line_of_jsonl_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n\n{"x": \n')
    found = read_jsonl(path, {"x": int})
    assert next(found) == ("1", {"x": 1})
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: broken JSON"):
        next(found)
