"""JSON lists and COCO caption files, copied once as JSONL; everything behind this reads lines."""

from __future__ import annotations

import io
import json
import os
import re
import reprlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.cursor import BOM, FORMS, JsonCursor
from lit_cvit.data.records.lines import Form, Offsets

_HEAD = 1 << 16
_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class ListCopy:
    """A JSON list of objects, to be copied as lines."""

    form = Form.LIST

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._file, self.path = file, path

    def lines(self) -> Iterator[bytes]:
        """Give the text of each object.

        Raises:
            RecordError: the file is broken at some place; names it.
        """
        cursor = JsonCursor(self._file, self.path)
        yield from cursor.objects()
        cursor.end("the list")


class CocoCopy:
    """A COCO caption file, to be copied as lines: an image with all its annotations is a record."""

    form = Form.COCO

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._file, self.path = file, path
        self._images: dict[object, int] = {}
        self._image_ranges: list[tuple[int, int]] = []
        self._owners: list[object] = []
        self._annotation_ranges: array[int] = array("q")

    def found(self) -> bool:
        """Go through the file; False if its first object has no such lists.

        Raises:
            RecordError: it has, and is broken at some place, or they do not go together; names the place.
        """
        cursor = JsonCursor(self._file, self.path)
        missing = {"images", "annotations"}
        try:
            cursor.take("{")
            while cursor.char() != "}":
                key = json.loads(cursor.value())
                cursor.take(":")
                if key in missing and cursor.char() == "[":
                    self._read(cursor, key)
                    missing.discard(key)
                else:
                    cursor.value()
                if cursor.char() != "}":
                    cursor.take(",")
            cursor.take("}")
        except (ValueError, RecursionError):
            if self._images or self._owners:
                raise
            return False  # it is JSONL, and its broken line is named when it is read
        if missing and not (self._images or self._owners):
            return False
        if missing:
            fix = "a COCO caption file has 'images' and 'annotations'"
            raise RecordError.of(f"no list {missing.pop()!r}", place=str(self.path), fix=fix)
        cursor.end("the object")
        return True

    def lines(self) -> Iterator[bytes]:
        """Give the text of a record for each image."""
        of_image: list[list[int]] = [[] for _ in self._image_ranges]
        for position, owner in enumerate(self._owners):
            if owner not in self._images:
                place = f"{self.path}, annotations[{position}]"
                fix = "no image of the file has that id"
                raise RecordError.of(f"got {owner!r}", place=place, field="image_id", fix=fix)
            of_image[self._images[owner]].append(position)
        for image, own in zip(self._image_ranges, of_image, strict=True):
            ranges = (self._annotation_ranges[2 * at : 2 * at + 2] for at in own)
            joined = b", ".join(self._text(start, end) for start, end in ranges)
            yield b'{"image": ' + self._text(*image) + b', "annotations": [' + joined + b"]}"

    def _text(self, start: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), end - start, start)

    def _read(self, cursor: JsonCursor, name: str) -> None:
        field = "id" if name == "images" else "image_id"
        for position, raw in enumerate(cursor.objects(name)):
            place = f"{self.path}, {name}[{position}]"
            identity = _identity(json.loads(raw), field, place)
            start, end = cursor.byte - len(raw), cursor.byte
            if name == "annotations":
                self._owners.append(identity)
                self._annotation_ranges.extend((start, end))
            elif self._images.setdefault(identity, position) != position:
                raise RecordError.of(f"got {identity!r} a second time", place=place, field=field)
            else:
                self._image_ranges.append((start, end))


def copy_of(file: io.FileIO, path: Path) -> ListCopy | CocoCopy | None:
    """How a file is copied as lines, read off its first characters; None if it has lines already.

    Raises:
        RecordError: it is in no known form, or has no records; names it.
    """
    first = re.search(rb"\S", os.pread(file.fileno(), _HEAD, 0).removeprefix(BOM))
    if first is None:
        raise RecordError.of("the file is empty, it needs at least one record", place=str(path), fix=FORMS)
    if first.group() == b"[":
        return ListCopy(file, path)
    if first.group() != b"{":
        raise RecordError.of(f"the file starts with {first.group()!r}", place=str(path), fix=FORMS)
    captions = CocoCopy(file, path)
    return captions if captions.found() else None


def write_lines(copy: ListCopy | CocoCopy, out: BinaryIO) -> Offsets:
    """Write the records of a file, one a line, as they are spelled there but for line breaks.

    Returns:
        (records + 1,) byte at which each line starts, and the end.

    Raises:
        RecordError: the file is broken at some place; names it.
    """
    starts, at = array("q"), 0
    for raw in copy.lines():
        starts.append(at)
        # Strings have no line breaks in JSON: what stands in a record's text is space between its parts.
        at += out.write(raw.translate(_BREAKS) + b"\n")
    if not starts:
        raise RecordError.of("the list is empty, it needs at least one record", place=str(copy.path))
    starts.append(at)
    out.flush()
    return np.array(starts, np.int64)


def _identity(row: dict[str, object], field: str, place: str) -> object:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        got = reprlib.repr(value) if field in row else "nothing"
        fix = "it must be a string or a whole number"
        raise RecordError.of(f"got {got}", place=place, field=field, fix=fix)
    return value
