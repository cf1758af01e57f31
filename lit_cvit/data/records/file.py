"""Random access to the records of one file, without holding them as Python objects.

A file is a JSON list of objects, JSONL (one object a line) or a COCO caption file. It is scanned once for
the byte range of every record; `lit_cvit.data.records.index` says where that is saved. The ranges are
memory-mapped and a record is read at its place, so 600,000 rows cost no process any memory of its own.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import reprlib
from pathlib import Path
from typing import Any

from lit_cvit.data.records.index import RecordIndex, open_index
from lit_cvit.data.records.scan import FORMS, Form


class RecordFile:
    """The records of one file, by index; its form is read off its first characters.

    Picklable: a worker process receives the path, and opens file and index again.

    Attributes:
        path: The file, as it was given.
    """

    _opened: tuple[io.FileIO, RecordIndex] | None = None

    def __init__(self, path: Path | str) -> None:
        """Open the index of the file, or make it.

        Raises:
            ValueError: the file is missing, empty or not UTF-8, has no records, or (a JSON list, a COCO file)
                is broken at some place; names the file and the place.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file; {FORMS}")
        self._size = self.path.stat().st_size
        self._digest = ""
        self._digest = self._open()[1].digest

    def __len__(self) -> int:
        return len(self._open()[1].layout)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decode record `index`; one of a COCO file is {"image": {...}, "annotations": [{...}, ...]}.

        Raises:
            IndexError: `index` is negative or past the end.
            ValueError: the record is broken JSON, not UTF-8 or not an object; names file and line or index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has records 0 to {len(self) - 1}, got {index}")
        layout = self._open()[1].layout
        if layout.form is not Form.COCO:
            return self._decode(index, index)
        first, *others = (
            self._decode(piece, index) for piece in range(layout.extra[index], layout.extra[index + 1])
        )
        return {"image": first, "annotations": others}

    def where(self, index: int) -> str:
        """Name the place of a record: file and line (JSONL, from 1) or file and index (from 0)."""
        layout = self._open()[1].layout
        if layout.form is Form.LIST:
            return f"{self.path}, index {index}"
        if layout.form is Form.COCO:
            return f"{self.path}, images[{index}]"
        return f"{self.path}, line {layout.extra[index] if len(layout.extra) else index + 1}"

    def digest(self) -> str:
        """Hash of the file's content (BLAKE2b, 32 hex digits); independent of its name and place."""
        return self._digest

    def _decode(self, piece: int, index: int) -> dict[str, Any]:
        file, found = self._open()
        start, end = int(found.layout.starts[piece]), int(found.layout.ends[piece])
        # Not through a map of the file: reading one that was cut short meanwhile would kill the process.
        raw = os.pread(file.fileno(), end - start, start)
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.where(index)}: not UTF-8 at byte {error.start}; {FORMS}") from error
        except json.JSONDecodeError as error:
            message = f"{self.where(index)}: broken JSON at column {error.colno}: {error.msg}; {FORMS}"
            raise ValueError(message) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.where(index)}: unreadable JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{self.where(index)}: got {reprlib.repr(row)}; a record is a JSON object {{...}}"
            )
        return row

    def _open(self) -> tuple[io.FileIO, RecordIndex]:
        if self._opened is None:
            file = io.FileIO(self.path)
            size = os.fstat(file.fileno()).st_size
            if size != self._size:
                message = f"{self.path}: changed while in use, from {self._size} to {size} bytes"
                raise ValueError(f"{message}; start again with the file as it is now")
            if not size:
                raise ValueError(f"{self.path}: the file is empty, it needs at least one record; {FORMS}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                index = open_index(self.path, data)
            if self._digest and index.digest != self._digest:
                message = f"{self.path}: changed while in use"
                raise ValueError(f"{message}; start again with the file as it is now")
            self._opened = file, index
        return self._opened

    def __del__(self) -> None:
        if self._opened is not None:
            self._opened[0].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}
