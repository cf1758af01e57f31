"""Tables of tab-separated values with a base64 image in every row, as MMBench and VLMEvalKit publish them.

The file is read once for the short cells and the byte range of every row; images are read from it again when
they are opened, one row at a time.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image

from lit_cvit.data.errors import RecordError
from lit_cvit.data.images import decode_image, image_size

Found = TypeVar("Found")

_IMAGE = "image"
# Whatever is shorter cannot be an image; it is the `index` of the row that holds the image.
_MAX_REFERENCE = 64
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class TableImage:
    """A base64 image in a cell of a table; an `ImageSource`.

    Attributes:
        path: The table.
        start: First byte of the row.
        end: Byte after the row.
        column: Position of the cell in the row.
        record: File and line of the record, for messages; not part of the value.
    """

    path: Path
    start: int
    end: int
    column: int
    record: str = field(default="", compare=False)

    def open(self) -> Image.Image:
        """Read the row and decode its image to RGB.

        Raises:
            RecordError: the cell holds no readable image; names the file and the record.
        """
        return self._read(decode_image)

    def size(self) -> tuple[int, int]:
        """Read the row, and width and height in pixels off the image's header.

        Raises:
            ValueError: as in `open`, but for damage behind the header.
        """
        return self._read(image_size)

    def _read(self, look: Callable[[BinaryIO], Found]) -> Found:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                raw = file.read(self.end - self.start)
            with _long_cells():
                cell = next(csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), delimiter="\t"))[
                    self.column
                ]
            return look(io.BytesIO(base64.b64decode(cell)))
        except (OSError, ValueError, csv.Error, IndexError, StopIteration) as error:
            fix = "it must be an image file in base64; fetch the table again"
            what, cause = f"column {_IMAGE!r}: {error}", "not a readable image"
            raise RecordError.of(what, place=self.record, cause=cause, fix=fix) from error


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: Short cells by column.
        image: The row's image.
        place: File and line, for messages.
    """

    cells: dict[str, str]
    image: TableImage
    place: str


def read_table(path: Path, columns: Sequence[str]) -> list[TableRow]:
    """Read a table, its images apart.

    Args:
        path: The table; UTF-8, the first row names the columns, cells are quoted as in CSV.
        columns: Columns that it must have, beside `index` and `image`.

    Raises:
        ValueError: the table is broken or lacks columns, or an image cell names no row that has an image;
            names file and line.
    """
    with path.open("rb") as file, _long_cells():
        lines = _Lines(file, path)
        reader = csv.reader(lines, delimiter="\t")
        try:
            header = next(reader, [])
            _check_columns(path, header, ("index", _IMAGE, *columns))
            return _resolved([*_rows(path, header, reader, lines)])
        except csv.Error as error:
            raise ValueError(f"{path}, line {lines.number}: {error}; fetch the table again") from error


def _rows(
    path: Path, header: Sequence[str], reader: Iterable[list[str]], lines: _Lines
) -> Iterator[tuple[TableRow, str]]:
    """Rows, each with what stands in the image's place if that is no image."""
    column = header.index(_IMAGE)
    start, number = lines.offset, lines.number
    for cells in reader:
        place = f"{path}, line {number + 1}"
        if cells and len(cells) != len(header):
            counts = f"got {len(cells)} cells for {len(header)} columns"
            raise ValueError(f"{place}: {counts}; the file is cut off or broken, fetch it again")
        if cells:
            content = cells[column].strip()
            named = {name: cell for name, cell in zip(header, cells, strict=True) if name != _IMAGE}
            image = TableImage(path, start, lines.offset, column, record=place)
            yield TableRow(named, image, place), content if len(content) <= _MAX_REFERENCE else ""
        start, number = lines.offset, lines.number


def _resolved(rows: Sequence[tuple[TableRow, str]]) -> list[TableRow]:
    holders = {row.cells["index"]: row for row, reference in rows if not reference}
    found = []
    for row, reference in rows:
        if reference and reference not in holders:
            fix = f"it must be base64, or the 'index' of a row with an image; got {reference!r}"
            raise ValueError(f"{row.place}: column {_IMAGE!r}: {fix}")
        found.append(TableRow(row.cells, holders[reference].image, row.place) if reference else row)
    return found


def _check_columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    lacking = [name for name in needed if name not in header]
    if lacking:
        shown = ", ".join(header[:20]) or "nothing"
        raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; the first row has {shown}")


class _Lines:
    """The lines of a file as text, with how much of it was read; `csv` asks for them one at a time."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.offset = self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.offset += len(line)
        self.number += 1
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}, line {self.number}: not UTF-8: {error}") from error


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Let `csv` read cells as long as an image inside the block."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
