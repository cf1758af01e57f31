"""Reads a large JSON file member by member: the text is held once, and one decoded member at a time.

Annotation files of several hundred MB would take many times that as Python objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}

OnField = Callable[[str, Any], None]


def packing(path: Path) -> str:
    """Name the format that a file is packed in, judged by its first bytes; empty if it is not packed."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for mark, name in _PACKED.items() if start.startswith(mark)), "")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is none; names the file, and whether it looks packed.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_text(path) from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give number, from 1, and text of each line of a file in UTF-8.

    Raises:
        ValueError: as in `read_text`.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from enumerate(file, 1)
    except UnicodeDecodeError as error:
        raise _no_text(path) from error


def _no_text(path: Path) -> ValueError:
    packed = packing(path)
    why = f"it looks packed ({packed}); unpack it" if packed else "was it unpacked?"
    return ValueError(f"{path}: not a text file in UTF-8; {why}")


def members(path: Path, key: str = "", on_field: OnField | None = None) -> Iterator[tuple[str, Any]]:
    """Give the members of the list or object that is the file's top, or stands in field `key` of it.

    Members of a list are named by their position ("0"), those of an object by their key.

    Args:
        path: The file.
        key: Field of the top object; empty for the top itself.
        on_field: Called with name and value of each other field of the top object, those behind `key` last.

    Raises:
        ValueError: the file is not JSON in UTF-8, or has no list or object there; names file and place.
    """
    try:
        scan = _Scan(read_text(path))
        if key:
            scan.find(key, on_field)
        yield from scan.members()
        if key and on_field:
            scan.rest(on_field)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: not the JSON file it should be: {error}; download it again, and unpack it"
        ) from error


class _Scan:
    """A place in a JSON text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
        self.decoder = json.JSONDecoder()

    def value(self) -> Any:
        """Decode the value here and go behind it."""
        found, self.at = self.decoder.raw_decode(self.text, self.at)
        self.skip("")
        return found

    def skip(self, token: str) -> None:
        """Go behind `token` and the white space that follows."""
        if not self.text.startswith(token, self.at):
            raise json.JSONDecodeError(f"Expecting {token!r}", self.text, self.at)
        self.at = _SPACE.match(self.text, self.at + len(token)).end()  # type: ignore[union-attr]

    def find(self, key: str, on_field: OnField | None) -> None:
        """Go to the value of field `key` of the object here."""
        self.skip("{")
        if not self._pass_fields(on_field, until=key):
            raise json.JSONDecodeError(f"No field {key!r} in the top object, which ends", self.text, self.at)

    def rest(self, on_field: OnField) -> None:
        """Go to the end of the object, from behind a value of it."""
        if not self.text.startswith("}", self.at):
            self.skip(",")
            self._pass_fields(on_field)

    def _pass_fields(self, on_field: OnField | None, until: str | None = None) -> bool:
        while not self.text.startswith("}", self.at):
            name = self.value()
            self.skip(":")
            if name == until:
                return True
            value = self.value()
            if on_field:
                on_field(name, value)
            if not self.text.startswith("}", self.at):
                self.skip(",")
        return False

    def members(self) -> Iterator[tuple[str, Any]]:
        """Give the members of the list or object here."""
        is_list = self.text.startswith("[", self.at)
        self.skip("[" if is_list else "{")
        end, position = "]" if is_list else "}", 0
        while not self.text.startswith(end, self.at):
            if is_list:
                name = str(position)
            else:
                name = str(self.value())
                self.skip(":")
            yield name, self.value()
            position += 1
            if not self.text.startswith(end, self.at):
                self.skip(",")
        self.skip(end)
