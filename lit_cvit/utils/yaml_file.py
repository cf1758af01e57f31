"""Reads YAML files, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", mark)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path, *, content: str, place: str = "") -> dict[str, Any]:
    """Read a file that holds one mapping.

    Args:
        path: The file.
        content: What the mapping holds, for the message where there is none.
        place: What messages start with; by default the path.

    Raises:
        ValueError: the file is not UTF-8, not YAML, has a key twice, or holds no mapping.
    """
    place = place or str(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}: broken YAML, {line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: broken YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place}: got {values!r:.60}; the file must be a mapping {content}")
    return values


def mapping_in(path: Path) -> dict[str, Any]:
    """The mapping that a file of our own holds, such as a run's `config.yaml`; empty where it holds none.

    A run that was started from Python has a file without one; a missing file counts as empty too.
    """
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
