"""A YAML file that cannot be read says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_cvit.utils.yaml_file import read_yaml


def test_a_mapping_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, two]\nb: {c: null}\n", encoding="utf-8")
    assert read_yaml(path, content="of settings") == {"a": [1, "two"], "b": {"c": None}}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"# caf\xe9\n", ("not UTF-8 at byte 5",)),
        (b"a: [1\nb: 2\n", ("broken YAML", "line 2, column 2")),
        (b"a:\n  b: 1\n  b: 2\n", ("broken YAML", "line 3, column 3", "'b' stands twice")),
        (b"a: \x07\n", ("broken YAML",)),
        (b"words\n", ("got 'words'", "a mapping of settings")),
        (b"", ("got None", "a mapping of settings")),
    ],
)
def test_a_file_that_cannot_be_read_names_place_and_cause(
    tmp_path: Path, content: bytes, parts: tuple[str, ...]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    for place in ("", "--config here"):
        with pytest.raises(ValueError, match="YAML|UTF-8|mapping") as raised:
            read_yaml(path, content="of settings", place=place)
        assert str(raised.value).startswith(f"{place or path}: ")
        assert all(part in str(raised.value) for part in parts), raised.value
