"""Random access to the records of one file, without holding them as Python objects.

A file is a JSON list of objects, JSONL (one object a line) or a COCO caption file; the last two are copied
once as lines. `lit_cvit.data.records.index` says where copy and index are saved. The index is memory-mapped
and a record is read at its place, so 600,000 rows cost no process any memory of its own. Messages name the
user's file, and the place there, whatever is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.cursor import FORMS, not_an_object
from lit_cvit.data.records.index import RecordIndex, open_index
from lit_cvit.data.records.lines import Form


class RecordFile:
    """The records of one file, by index; its form is read off its first characters.

    Picklable: a worker process receives the path, and opens file and index again.

    Attributes:
        path: The file, as it was given.
    """

    _opened: RecordIndex | None = None

    def __init__(self, path: Path | str) -> None:
        """Open the index of the file, or make it.

        Raises:
            RecordError: the file is missing, empty or not UTF-8, has no records, or (a JSON list, a COCO
                file) is broken at some place; names the file and the place.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise RecordError.of("no such file", place=str(self.path), cause="no such file", fix=FORMS)
        self._size = self.path.stat().st_size
        self._digest = ""
        self._digest = self._open().digest

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decode record `index`; one of a COCO file is {"image": {...}, "annotations": [{...}, ...]}.

        Raises:
            IndexError: `index` is negative or past the end.
            RecordError: the record is broken JSON, not UTF-8 or not an object; names file and line or index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has records 0 to {len(self) - 1}, got {index}")
        lines = self._open()
        start, end = int(lines.starts[index]), int(lines.starts[index + 1])
        # Not through a map of the file: reading one that was cut short meanwhile would kill the process.
        raw = os.pread(lines.text.fileno(), end - start, start).partition(b"\n")[0]
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._broken(index, "not UTF-8", f" at byte {error.start}") from error
        except json.JSONDecodeError as error:
            raise self._broken(index, "broken JSON", f" at column {error.colno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise self._broken(index, "unreadable JSON", f": {error}", fix="") from error
        if not isinstance(row, dict):
            raise not_an_object(row, self.where(index))
        return row

    def where(self, index: int) -> str:
        """Name the place of a record: file and line (JSONL, from 1) or file and index (from 0)."""
        lines = self._open()
        if lines.form is Form.LIST:
            return f"{self.path}, index {index}"
        if lines.form is Form.COCO:
            return f"{self.path}, images[{index}]"
        return f"{self.path}, line {lines.numbers[index] if len(lines.numbers) else index + 1}"

    def digest(self) -> str:
        """Hash of the file's content (BLAKE2b, 32 hex digits); independent of its name and place."""
        return self._digest

    def _broken(self, index: int, cause: str, detail: str, fix: str = FORMS) -> RecordError:
        lines = self._open()
        if lines.form is not Form.LINES:  # it was sound when it was copied
            fix = f"its copy as lines is damaged; delete {lines.text.name}"
        return RecordError.of(cause + detail, place=self.where(index), cause=cause, fix=fix)

    def _open(self) -> RecordIndex:
        if self._opened is None:
            size = self.path.stat().st_size
            if size != self._size:
                raise self._changed(f", from {self._size} to {size} bytes")
            opened = open_index(self.path)
            if self._digest and opened.digest != self._digest:
                opened.text.close()
                raise self._changed()
            self._opened = opened
        return self._opened

    def _changed(self, how: str = "") -> RecordError:
        what, fix = f"changed while in use{how}", "start again with the file as it is now"
        return RecordError.of(what, place=str(self.path), fix=fix)

    def __del__(self) -> None:
        if self._opened is not None:
            self._opened.text.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}
