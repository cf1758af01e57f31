"""Finding where the records of a file begin and end, in one pass over its bytes."""

from __future__ import annotations

import enum
import json
import mmap
import re
import reprlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]

FORMS = "a record file is a JSON list of objects, or JSONL with one object a line, in UTF-8"
BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 24
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODE = json.JSONDecoder().raw_decode


class Form(enum.IntEnum):
    """How the records of a file stand in it; the numbers are written in saved indexes."""

    LINES = 0
    LIST = 1
    COCO = 2


@dataclass(frozen=True)
class Layout:
    """Where the pieces of the records are.

    Attributes:
        form: How they stand in the file.
        starts: Byte at which each piece starts. A piece is a record; of a COCO file it is an image or an
            annotation, every image followed by its own annotations.
        ends: Byte after each piece.
        extra: LINES: the line number of each record, empty if no line is blank. COCO: the number of pieces
            before each record, and before the end. Otherwise empty.
    """

    form: Form
    starts: Offsets
    ends: Offsets
    extra: Offsets

    def __len__(self) -> int:
        return len(self.extra) - 1 if self.form is Form.COCO else len(self.starts)


def scan(data: mmap.mmap, path: Path) -> Layout:
    """Find the records of a file that is not empty.

    Objects of a list and of a COCO file are decoded once, so broken JSON shows here; lines are not.

    Raises:
        ValueError: the file has no records, is in no known form, or (a list, a COCO file) is broken at some
            place; names the file and the place.
    """
    first = re.search(rb"\S", data[:_CHUNK].removeprefix(BOM))
    if first is None:
        raise ValueError(f"{path}: the file is empty, it needs at least one record; {FORMS}")
    if first.group() == b"[":
        layout = _scan_list(_Cursor(data, path))
    elif first.group() == b"{":
        captions = _scan_coco(_Cursor(data, path))
        layout = _scan_lines(data) if captions is None else captions
    else:
        raise ValueError(f"{path}: the file starts with {first.group()!r}; {FORMS}")
    if not len(layout):
        raise ValueError(f"{path}: the list is empty, it needs at least one record")
    return layout


def _scan_lines(data: mmap.mmap) -> Layout:
    size = len(data)
    found = [
        np.flatnonzero(np.frombuffer(data[at : at + _CHUNK], np.uint8) == ord("\n")) + at
        for at in range(0, size, _CHUNK)
    ]
    breaks = np.concatenate(found).astype(np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), breaks + 1))
    ends = np.concatenate((breaks, np.full(1, size, np.int64)))
    if data[: len(BOM)] == BOM:
        starts[0] = len(BOM)
    keep = starts < ends
    first = np.full(len(starts), ord("{"), np.uint8)
    first[keep] = np.frombuffer(data, np.uint8)[starts[keep]]
    for line in np.flatnonzero(first != ord("{")):
        keep[line] = bool(data[int(starts[line]) : int(ends[line])].strip())
    wanted = np.flatnonzero(keep)
    numbers = np.zeros(0, np.int64) if wanted[-1] == len(wanted) - 1 else wanted + 1
    return Layout(Form.LINES, starts[wanted], ends[wanted], numbers)


def _scan_list(cursor: _Cursor) -> Layout:
    found = _Objects()
    cursor.array(found, "")
    cursor.end("the list")
    return Layout(Form.LIST, *found.bounds(), np.zeros(0, np.int64))


def _scan_coco(cursor: _Cursor) -> Layout | None:
    """Find images and annotations, or return None if the first object has no lists of them."""
    found = {"images": _Objects("id"), "annotations": _Objects("image_id")}
    missing = set(found)
    try:
        cursor.take("{")
        while cursor.char() != "}":
            key = cursor.value()
            cursor.take(":")
            if key in missing and cursor.char() == "[":
                cursor.array(found[key], key)
                missing.discard(key)
            else:
                cursor.value()
            if cursor.char() != "}":
                cursor.take(",")
        cursor.take("}")
    except (ValueError, RecursionError):
        if any(objects.ranges for objects in found.values()):
            raise
        return None  # it is JSONL, and its broken line is named when it is read
    if missing and not any(objects.ranges for objects in found.values()):
        return None
    if missing:
        raise ValueError(
            f"{cursor.path}: no list {missing.pop()!r}; a COCO caption file has 'images' and 'annotations'"
        )
    cursor.end("the object")
    return _join(found["images"], found["annotations"], cursor.path)


def _join(images: _Objects, annotations: _Objects, path: Path) -> Layout:
    """Put every annotation behind its image."""
    position: dict[object, int] = {}
    for index, identity in enumerate(images.keys):
        if position.setdefault(identity, index) != index:
            raise ValueError(f"{path}, images[{index}]: field 'id': got {identity!r} a second time")
    owners = np.empty(len(annotations.keys), np.int64)
    for index, identity in enumerate(annotations.keys):
        if identity not in position:
            place = f"{path}, annotations[{index}]: field 'image_id'"
            raise ValueError(f"{place}: got {identity!r}; no image of the file has that id")
        owners[index] = position[identity]
    sizes = 1 + np.bincount(owners, minlength=len(position))
    firsts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    is_image = np.zeros(int(firsts[-1]), bool)
    is_image[firsts[:-1]] = True
    order = np.argsort(owners, kind="stable")
    joined = []
    for of_images, of_annotations in zip(images.bounds(), annotations.bounds(), strict=True):
        pieces = np.empty(len(is_image), np.int64)
        pieces[is_image], pieces[~is_image] = of_images, of_annotations[order]
        joined.append(pieces)
    return Layout(Form.COCO, joined[0], joined[1], firsts)


@dataclass
class _Objects:
    """Byte ranges of the objects of an array, and the value of one field of each."""

    key: str = ""
    ranges: array[int] = field(default_factory=lambda: array("q"))
    keys: list[object] = field(default_factory=list)

    def add(self, row: object, start: int, end: int) -> None:
        if not isinstance(row, dict):
            raise _FieldError(f"got {reprlib.repr(row)}; a record is a JSON object {{...}}")
        if self.key:
            value = row.get(self.key)
            if isinstance(value, bool) or not isinstance(value, str | int):
                got = reprlib.repr(value) if self.key in row else "nothing"
                raise _FieldError(f"field {self.key!r}: got {got}; it must be a string or a whole number")
            self.keys.append(value)
        self.ranges.append(start)
        self.ranges.append(end)

    def bounds(self) -> tuple[Offsets, Offsets]:
        pairs = np.array(self.ranges, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


class _Cursor:
    """A place in a JSON file that is decoded window by window."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.path = path
        self._data = data
        self._text, self._at = "", 0
        # The byte at which a character of the text lies that is not behind the cursor.
        self._known = (0, len(BOM) if data[: len(BOM)] == BOM else 0)
        self._is_rest = False

    def char(self) -> str:
        """The next character that is no space, which is not taken; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None, "the pattern matches the empty string"
            self._at = match.end()
            if self._at < len(self._text) or self._is_rest:
                return self._text[self._at : self._at + 1]
            self._refill()

    def take(self, wanted: str, message: str = "") -> None:
        if self.char() != wanted:
            self._broken(message or f"Expecting {wanted!r}", self._at)
        self._at += 1

    def end(self, what: str) -> None:
        if self.char():
            self._broken(f"Extra data after {what}", self._at)

    def value(self) -> Any:
        """Decode the value here and go behind it."""
        self.char()
        while True:
            try:
                value, end = _DECODE(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_rest:
                    self._broken(error.msg, error.pos)
            else:
                # A number at the end of the window may go on behind it.
                if end < len(self._text) or self._is_rest:
                    self._at = end
                    return value
            self._refill()

    def array(self, found: _Objects, name: str = "") -> None:
        """Go through an array of objects, which is called `name` in messages."""
        self.take("[")
        while self.char() != "]":
            index = len(found.ranges) // 2
            start = self._byte()
            try:
                found.add(self.value(), start, self._byte())
            except _BrokenError:
                raise
            except (ValueError, RecursionError) as error:
                what = str(error) if isinstance(error, _FieldError) else f"unreadable JSON: {error}"
                place = f"{name}[{index}]" if name else f"index {index}"
                raise ValueError(f"{self.path}, {place}: {what}") from error
            if self.char() != "]":
                self.take(",", "Expecting ',' or ']'")
                if self.char() == "]":
                    self._broken("Expecting value", self._at)
        self._at += 1

    def _byte(self) -> int:
        char, byte = self._known
        byte += len(self._text[char : self._at].encode("utf-8"))
        self._known = (self._at, byte)
        return byte

    def _refill(self) -> None:
        """Decode from the cursor on, at least twice as far as it was decoded."""
        start = self._byte()
        size = max(_CHUNK, 2 * len(self._text[self._at :].encode("utf-8")))
        end = min(start + size, len(self._data))
        while end < len(self._data) and end > start + size - 4 and self._data[end] & 0xC0 == 0x80:
            end -= 1
        try:
            self._text = self._data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _BrokenError(f"{self.path}: not UTF-8 at byte {start + error.start}; {FORMS}") from error
        self._at, self._known, self._is_rest = 0, (0, start), end == len(self._data)

    def _broken(self, what: str, at: int) -> NoReturn:
        char, byte = self._known
        byte += len(self._text[char:at].encode("utf-8"))
        before = self._data[:byte].removeprefix(BOM).decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _BrokenError(f"{self.path}: broken JSON at line {line}, column {column}: {what}")


class _FieldError(ValueError):
    """An object that cannot be used; the message goes on after its place."""


class _BrokenError(ValueError):
    """Text that is no JSON; the message names its line and column."""
