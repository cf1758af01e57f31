"""Reads a large JSON file member by member: the text is held once, and one decoded member at a time.

Annotation files of several hundred MB would take many times that as Python objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")


def members(path: Path, key: str = "") -> Iterator[tuple[str, Any]]:
    """Give the members of the list or object that is the file's top, or stands in field `key` of it.

    Members of a list are named by their position ("0"), those of an object by their key.

    Raises:
        ValueError: the file is not JSON in UTF-8, or has no list or object there; names file and place.
    """
    try:
        scan = _Scan(path.read_text(encoding="utf-8-sig"))
        if key:
            scan.find(key)
        yield from scan.members()
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: not the JSON file it should be: {error}; download it again, and unpack it"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8; was it unpacked?") from error


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

    def find(self, key: str) -> None:
        """Go to the value of field `key` of the object here."""
        self.skip("{")
        while not self.text.startswith("}", self.at):
            name = self.value()
            self.skip(":")
            if name == key:
                return
            self.value()
            if not self.text.startswith("}", self.at):
                self.skip(",")
        raise json.JSONDecodeError(f"No field {key!r} in the top object, which ends", self.text, self.at)

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
