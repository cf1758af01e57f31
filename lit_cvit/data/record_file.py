"""Random access to the records of one file, without holding them as Python objects.

A file is a JSON list of objects or JSONL (one object a line). It is scanned once for the byte range of
every record and read through a memory map afterwards, so 600,000 rows cost two integer arrays.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import reprlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

_Offsets = npt.NDArray[np.int64]

_CHUNK = 1 << 24
_BOM = b"\xef\xbb\xbf"
_FORMS = "a record file is a JSON list of objects, or JSONL with one object a line, in UTF-8"


class RecordFile:
    """The records of one JSON or JSONL file, by index; which of the two is read off the first character.

    Picklable: a worker process receives the byte ranges and maps the file again.

    Attributes:
        path: The file, as it was given.
    """

    def __init__(self, path: Path | str) -> None:
        """Scan the file.

        Raises:
            ValueError: the file is missing, empty or not UTF-8, has no records, or (a JSON list) is broken
                at some place; names the file and the place.
        """
        self.path = Path(path)
        self._map: mmap.mmap | None = None
        self._digest = ""
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file; {_FORMS}")
        self._size = self.path.stat().st_size
        first = re.search(rb"\S", self._data()[:_CHUNK].removeprefix(_BOM)) if self._size else None
        if first is None:
            raise ValueError(f"{self.path}: the file is empty, it needs at least one record; {_FORMS}")
        self._lines: _Offsets | None = None
        self._is_list = first.group() == b"["
        if self._is_list:
            self._starts, self._ends = _scan_list(self._data()[:], self.path)
        elif first.group() == b"{":
            self._starts, self._ends, self._lines = _scan_lines(self._data())
        else:
            raise ValueError(f"{self.path}: the file starts with {first.group()!r}; {_FORMS}")
        if not len(self):
            raise ValueError(f"{self.path}: the list is empty, it needs at least one record")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decode record `index`.

        Raises:
            IndexError: `index` is negative or past the end.
            ValueError: the record is broken JSON, not UTF-8 or not an object; names file and line or index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has records 0 to {len(self) - 1}, got {index}")
        raw = self._data()[int(self._starts[index]) : int(self._ends[index])]
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where(index)}: not UTF-8 at byte {error.start}; {_FORMS}") from error
        except json.JSONDecodeError as error:
            message = f"{self.where(index)}: broken JSON at column {error.colno}: {error.msg}; {_FORMS}"
            raise ValueError(message) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.where(index)}: unreadable JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{self.where(index)}: got {reprlib.repr(row)}; a record is a JSON object {{...}}"
            )
        return row

    def where(self, index: int) -> str:
        """Name the place of a record: file and line (JSONL, from 1) or file and index (list, from 0)."""
        if self._is_list:
            return f"{self.path}, index {index}"
        return f"{self.path}, line {index + 1 if self._lines is None else self._lines[index]}"

    def digest(self) -> str:
        """Hash the file's content (BLAKE2b, 32 hex digits); independent of its name and place."""
        if not self._digest:
            self._digest = hashlib.blake2b(self._data(), digest_size=16).hexdigest()
        return self._digest

    def _data(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                opened = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(opened) != self._size:
                message = f"{self.path}: changed while in use, from {self._size} to {len(opened)} bytes"
                raise ValueError(f"{message}; start again with the file as it is now")
            self._map = opened
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


def _scan_lines(data: mmap.mmap) -> tuple[_Offsets, _Offsets, _Offsets | None]:
    """Find starts and ends of the lines that are not blank, and their numbers where blank ones precede."""
    size = len(data)
    found = [
        np.flatnonzero(np.frombuffer(data[at : at + _CHUNK], np.uint8) == ord("\n")) + at
        for at in range(0, size, _CHUNK)
    ]
    breaks = np.concatenate(found).astype(np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), breaks + 1))
    ends = np.concatenate((breaks, np.full(1, size, np.int64)))
    if data[: len(_BOM)] == _BOM:
        starts[0] = len(_BOM)
    keep = starts < ends
    first = np.full(len(starts), ord("{"), np.uint8)
    first[keep] = np.frombuffer(data, np.uint8)[starts[keep]]
    for line in np.flatnonzero(first != ord("{")):
        keep[line] = bool(data[int(starts[line]) : int(ends[line])].strip())
    kept = np.flatnonzero(keep)
    lines = None if kept[-1] == len(kept) - 1 else kept + 1
    return starts[kept], ends[kept], lines


def _scan_list(data: bytes, path: Path) -> tuple[_Offsets, _Offsets]:
    """Find the byte range of every object of a JSON list; decodes each once, so broken JSON shows here."""
    skipped = len(_BOM) if data.startswith(_BOM) else 0
    try:
        text = data[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start + skipped}; {_FORMS}") from error
    try:
        bounds = _element_bounds(text, path)
    except json.JSONDecodeError as error:
        message = f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(message) from error
    chars = np.array(bounds, np.int64).reshape(-1, 2)
    offsets = chars if text.isascii() else _byte_offsets(text, chars)
    return offsets[:, 0] + skipped, offsets[:, 1] + skipped


def _element_bounds(text: str, path: Path) -> list[tuple[int, int]]:
    decoder = json.JSONDecoder()
    space = re.compile(r"[ \t\n\r]*")
    bounds: list[tuple[int, int]] = []

    def skip(at: int) -> int:
        match = space.match(text, at)
        assert match is not None, "the pattern matches the empty string"
        return match.end()

    at = skip(skip(0) + 1)
    closed = text[at : at + 1] == "]"
    while not closed:
        try:
            row, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, index {len(bounds)}: unreadable JSON: {error}") from error
        if not isinstance(row, dict):
            _refuse_element(path, len(bounds), row)
        bounds.append((at, end))
        at = skip(end)
        closed = text[at : at + 1] == "]"
        if not closed:
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
            at = skip(at + 1)
    if (rest := skip(at + 1)) != len(text):
        raise json.JSONDecodeError("Extra data after the list", text, rest)
    return bounds


def _refuse_element(path: Path, index: int, row: object) -> NoReturn:
    raise ValueError(f"{path}, index {index}: got {reprlib.repr(row)}; a record is a JSON object {{...}}")


def _byte_offsets(text: str, chars: _Offsets) -> _Offsets:
    offsets = np.empty(chars.size, np.int64)
    at = total = 0
    for position, char in enumerate(chars.ravel().tolist()):
        total += len(text[at:char].encode("utf-8"))
        at = char
        offsets[position] = total
    return offsets.reshape(chars.shape)
