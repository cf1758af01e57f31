"""The bytes of a saved index: one array of whole numbers, which can be memory-mapped.

Version, stamp of the record file (3), digest of its content (2), checksum of all else (2), form and number of
records; then where each line starts, the end, and the number of each line where lines are blank.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_cvit.data.records.lines import Form, Offsets

# Another number for every change of what follows it in the file, or of the copies.
VERSION = 0x7265636F72643032
_HEAD = 10
_UNSETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Stamp:
    """What shows without reading it that a file has changed.

    Attributes:
        size: Bytes.
        modified: Modification time in ns; 0 if it is not to be trusted.
        changed: Time of the last change of content or status, in ns; 0 if it is not to be trusted.
    """

    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, file: io.FileIO) -> Stamp:
        """Read it off a file."""
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def truncated(self) -> Stamp:
        """The stamp, without times so young that the file may change again within the same tick."""
        recent = time.time_ns() - max(self.modified, self.changed) < _UNSETTLED_NS
        return Stamp(self.size, 0, 0) if recent else self


@dataclass(frozen=True)
class SavedIndex:
    """What is saved of an index.

    Attributes:
        stamp: Stamp of the record file.
        digest: BLAKE2b of its content, 32 hex digits.
        form: How records stand in it.
        starts: (records + 1,) byte at which each line starts, and the end.
        numbers: (records,) number of each line, from 1; empty if no line is blank.
    """

    stamp: Stamp
    digest: str
    form: Form
    starts: Offsets
    numbers: Offsets

    def write(self, path: Path) -> None:
        """Write it to a new file, to the disk."""
        stamp, digest = self.stamp, np.frombuffer(bytes.fromhex(self.digest), np.int64)
        head = [VERSION, stamp.size, stamp.modified, stamp.changed, *digest, 0, 0, int(self.form)]
        start = np.array([*head, len(self.starts) - 1], np.int64)
        flat = np.concatenate((start, self.starts, self.numbers))
        flat[6:8] = _checksum(flat)
        with path.open("xb") as out:
            np.save(out, flat)
            out.flush()
            os.fsync(out.fileno())

    @classmethod
    def load(cls, path: Path) -> SavedIndex | None:
        """Map a file; None where there is none, or it is torn or foreign."""
        try:
            flat = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError):
            # The last two come of a header that is no Python literal.
            return None
        if flat.dtype != np.int64 or flat.ndim != 1 or len(flat) < _HEAD or flat[0] != VERSION:
            return None
        num_records, num_more = int(flat[9]), len(flat) - _HEAD - 1
        if num_more not in (num_records, 2 * num_records) or (flat[6:8] != _checksum(flat)).any():
            return None
        stamp, digest = Stamp(*map(int, flat[1:4])), flat[4:6].tobytes().hex()
        ends = _HEAD + num_records + 1
        return cls(stamp, digest, Form(int(flat[8])), flat[_HEAD:ends], flat[ends:])


def _checksum(flat: Offsets) -> Offsets:
    hashed = hashlib.blake2b(flat[:6].tobytes(), digest_size=16)
    hashed.update(flat[8:].data)
    return np.frombuffer(hashed.digest(), np.int64)
