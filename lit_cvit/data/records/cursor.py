"""A place in a JSON file of any size: values are passed one by one, and the file is read in windows."""

from __future__ import annotations

import io
import json
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from lit_cvit.data.errors import RecordError

FORMS = "a record file is a JSON list of objects, or JSONL with one object a line, in UTF-8"
BOM = b"\xef\xbb\xbf"
NO_OBJECT = "not an object"
_WINDOW = 1 << 24
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODE = json.JSONDecoder().raw_decode


class JsonCursor:
    """A place in a JSON file.

    The bytes are read as Latin-1, in which every byte is a character: what JSON itself is written in is
    ASCII, so a value begins and ends where it does in UTF-8, and the number of a character is that of a byte.
    """

    def __init__(self, file: io.FileIO, path: Path) -> None:
        """Start behind a byte order mark.

        Args:
            file: The file, opened.
            path: Its path, for messages.
        """
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size
        self._text, self._at = "", 0
        self._start = len(BOM) if os.pread(file.fileno(), len(BOM), 0) == BOM else 0

    @property
    def byte(self) -> int:
        """The byte of the file at which the place is."""
        return self._start + self._at

    def char(self) -> str:
        """Go to the next character that is no space, and show it; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None, "the pattern matches the empty string"
            self._at = match.end()
            if self._at < len(self._text) or self._is_rest:
                return self._text[self._at : self._at + 1]
            self._refill()

    def take(self, wanted: str, message: str = "") -> None:
        """Pass a character.

        Raises:
            RecordError: another one is there; names line and column.
        """
        if self.char() != wanted:
            self._broken(message or f"Expecting {wanted!r}", self._at)
        self._at += 1

    def end(self, what: str) -> None:
        """Make sure that nothing but space follows `what`.

        Raises:
            RecordError: something does; names line and column.
        """
        if self.char():
            self._broken(f"Extra data after {what}", self._at)

    def value(self) -> bytes:
        """Pass a value, and return its text, which is sound JSON in UTF-8.

        Raises:
            RecordError: it is none; names line and column, or the byte.
            ValueError, RecursionError: it is JSON that cannot be decoded.
        """
        self.char()
        while True:
            try:
                _, end = _DECODE(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_rest:
                    self._broken(error.msg, error.pos)
            else:
                # A number at the end of the window may go on behind it.
                if end < len(self._text) or self._is_rest:
                    break
            self._refill()
        start, raw = self.byte, self._text[self._at : end].encode("latin-1")
        self._at = end
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            what, place = f"not UTF-8 at byte {start + error.start}", str(self._path)
            raise RecordError.of(what, place=place, cause="not UTF-8", fix=FORMS) from error
        return raw

    def objects(self, name: str = "") -> Iterator[bytes]:
        """Pass a list of objects, and give the text of each; the place is behind it then.

        Args:
            name: What the list is called in messages; empty for that of the whole file.

        Raises:
            RecordError: it is no such list; names line and column, or the entry.
        """
        self.take("[")
        position = 0
        while self.char() != "]":
            place = f"{self._path}, {name}[{position}]" if name else f"{self._path}, index {position}"
            try:
                raw = self.value()
            except RecordError:
                raise
            except (ValueError, RecursionError) as error:
                what = f"unreadable JSON: {error}"
                raise RecordError.of(what, place=place, cause="unreadable JSON") from error
            if not raw.startswith(b"{"):
                raise not_an_object(json.loads(raw), place)
            yield raw
            position += 1
            if self.char() != "]":
                self.take(",", "Expecting ',' or ']'")
                if self.char() == "]":
                    self._broken("Expecting value", self._at)
        self._at += 1

    @property
    def _is_rest(self) -> bool:
        return self._start + len(self._text) >= self._size

    def _refill(self) -> None:
        """Read on from the place, at least twice as far as was read from it."""
        size = max(_WINDOW, 2 * (len(self._text) - self._at))
        self._start, self._at = self.byte, 0
        self._text = os.pread(self._file.fileno(), size, self._start).decode("latin-1")
        if not self._text and self._start < self._size:
            place = str(self._path)
            raise RecordError.of("the file changed while it was read", place=place, fix="start again")

    def _broken(self, what: str, at: int) -> NoReturn:
        read = os.pread(self._file.fileno(), self._start + at, 0)
        before = read.removeprefix(BOM).decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"broken JSON at line {line}, column {column}: {what}"
        raise RecordError.of(what, place=str(self._path), cause="broken JSON")


def not_an_object(value: object, place: str) -> RecordError:
    """The error of a record that is another JSON value."""
    what = f"got {reprlib.repr(value)}"
    return RecordError.of(what, place=place, cause=NO_OBJECT, fix="a record is a JSON object {...}")
