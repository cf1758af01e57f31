"""What a converter makes of a small download, for the data sets of CoIN and UCIT; `raw_kit` has CVIT's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import raw_kit

from lit_cvit.data.prepare.base import Converter

Splits = dict[str, list[dict[str, Any]]]


def put(path: Path, content: Any) -> None:
    """Write JSON, or a list of lines for a .jsonl file."""
    is_lines = path.suffix == ".jsonl"
    raw_kit.write(path, "".join(json.dumps(line) + "\n" for line in content) if is_lines else content)


def put_images(folder: Path, names: Iterable[str]) -> None:
    raw_kit.touch(*(folder / name for name in names))


def prepared(converter: Converter, benchmark: str, raw: Path) -> tuple[dict[str, Any], Splits]:
    """Prepare a task from RAW; return what the manifest says of its splits, and their records."""
    records, manifest = raw_kit.prepared(raw, raw.parent / "prepared", converter.task, benchmark)
    return manifest["splits"], records
