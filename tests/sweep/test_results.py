"""Results as JSON: what was written is read, what is damaged is refused, and nothing is of one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_kit import small_result

from lit_cvit.report.results import portable, read_result, read_results, write_result


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    result = small_result("A", 0)
    write_result(tmp_path / "A-0.json", result)
    assert read_result(tmp_path / "A-0.json") == result
    assert result.seconds == 180.0


def test_equal_results_give_equal_bytes_with_one_line_break_at_the_end(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_result(tmp_path / name, small_result("A", 0))
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert data.endswith(b"}\n")
    assert not data.endswith(b"\n\n")
    assert list(json.loads(data))[:4] == ["schema", "sweep", "name", "group"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 99}, "schema is 99"),
        ({"seed": "0"}, "seed is '0'"),
        ({"more": 1}, "more is unknown"),
        ({"config": {"root": "/somewhere/else"}}, "config.root is a path"),
        ({"run": {"images": [{"root": "~/images"}]}}, "run.images.0.root is a path"),
        ({"downstream": {}}, "not a score matrix"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_key(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    value = {**small_result("A", 0).to_json(), **changes}
    path = tmp_path / "A-0.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"A-0\.json") as caught:
        read_result(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["metrics", "measured"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    value = small_result("A", 0).to_json()
    del value[key]
    (tmp_path / "A-0.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=f"the key {key} is missing"):
        read_result(tmp_path / "A-0.json")


@pytest.mark.parametrize("rows", [[[1.0, None]], [[1.0], [1.0]], [[1.0, "a"], [1.0, 2.0]]])
def test_a_matrix_of_another_shape_or_without_numbers_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    value = small_result("A", 0).to_json()
    value["matrix"]["scores"] = rows
    (tmp_path / "A-0.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match="matrix: scores"):
        read_result(tmp_path / "A-0.json")


def test_a_file_under_another_name_than_its_cell_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "B-0.json", small_result("A", 0))
    with pytest.raises(ValueError, match=r"B-0\.json holds the results of A-0"):
        read_results(tmp_path)


def test_paths_of_a_machine_are_cut_to_what_another_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = {
        "root": str(tmp_path / "data" / "x"),
        "other": ["/far/away/model"],
        "kept": ["a/b", "/", 3, None],
    }
    assert portable(value) == {
        "root": "data/x",
        "other": [".../model"],
        "kept": ["a/b", "/", 3, None],
    }
