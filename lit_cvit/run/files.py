"""Reading what a run stored: JSON, JSON lines and safetensors, each error naming its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is missing or is not JSON; names it.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        ValueError: the file is missing or damaged; names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file: {error}") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a JSONL file; a torn last line is dropped, a missing file has no rows.

    Raises:
        ValueError: a line before the last is not a JSON object; names file and line.
    """
    if path.is_file():
        for _, row in whole_lines(path):
            yield row


def whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Iterate over (bytes, row) of an existing JSONL file; otherwise as `read_jsonl`."""
    torn: str | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if torn is not None:
                raise ValueError(torn)
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield line, row
            else:
                torn = f"{path}, line {number}: not a JSON object; the file is damaged before its last line"
