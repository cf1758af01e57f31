"""Where the lines of a JSONL file begin."""

from __future__ import annotations

import enum
import io
from array import array

import numpy as np
import numpy.typing as npt

from lit_cvit.data.records.cursor import BOM

Offsets = npt.NDArray[np.int64]
_BUFFER = 1 << 20


class Form(enum.IntEnum):
    """How the records stand in the user's file, which messages name; the numbers lie in saved indexes."""

    LINES = 0
    LIST = 1
    COCO = 2


def find_lines(file: io.FileIO) -> tuple[Offsets, Offsets]:
    """Find the lines that are not blank.

    A line goes to the first line break behind its start; blank lines may follow.

    Returns:
        (records + 1,) byte at which each line starts, and the end of the file; and the number of each, from
        1: (records,), or empty if no line before the last of them is blank.
    """
    starts, numbers, at = array("q"), array("q"), 0
    with open(file.fileno(), "rb", buffering=_BUFFER, closefd=False) as lines:
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            skipped = len(BOM) if not at and line.startswith(BOM) else 0
            rest = line[skipped:]
            if rest and not rest.isspace():
                starts.append(at + skipped)
                numbers.append(number)
            at += len(line)
    starts.append(at)
    dense = not numbers or numbers[-1] == len(numbers)
    return np.array(starts, np.int64), no_numbers() if dense else np.array(numbers, np.int64)


def no_numbers() -> Offsets:
    """The numbers of lines of which none is blank."""
    return np.zeros(0, np.int64)
