"""The index of a record file: found by scanning once, saved, and memory-mapped afterwards.

It lies beside the file as `<name>.index.npy` or, where that folder cannot be written, in the folder
`lit_cvit/indexes` of the user's cache ($XDG_CACHE_HOME, else ~/.cache). Files of less than 1 MB are scanned
faster than an index is opened, and have none.

An index is for one content. It is taken as it is while size, modification time and status-change time of
the file are those it was made for; no program sets the last of them at will, so a file cannot be changed
behind it. A file of the same size with other times (copied, touched) is hashed: the same digest keeps the
index. Times of the last two seconds are not trusted, because a clock tick can hide a second change. An index
that is torn or foreign (its own checksum says so) is made anew.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_cvit.data.records.scan import Form, Layout, Offsets, scan

SAVED_FROM = 1 << 20
"""Size in bytes from which on the index of a file is saved."""

# Another number for every change of what follows it in the file.
_VERSION = 0x7265636F72643031
_HEAD = 11
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
    def of(cls, path: Path) -> Stamp:
        """Read it off a file."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def truncated(self) -> Stamp:
        """The stamp, without times so young that the file may change again within the same tick."""
        recent = time.time_ns() - max(self.modified, self.changed) < _UNSETTLED_NS
        return Stamp(self.size, 0, 0) if recent else self


@dataclass(frozen=True)
class RecordIndex:
    """Layout and digest of one content of a record file.

    Attributes:
        layout: Where its records are.
        digest: BLAKE2b of the content, 32 hex digits.
    """

    layout: Layout
    digest: str


def open_index(path: Path, data: mmap.mmap) -> RecordIndex:
    """Return the saved index of a file, or scan the file and save it.

    Warns where it cannot be saved.

    Args:
        path: The file.
        data: Its content.

    Raises:
        ValueError: the file is broken, see `scan`, or it changes meanwhile.
    """
    stamp = Stamp.of(path)
    places = list(_places(path)) if stamp.size >= SAVED_FROM else []
    for place in places:
        flat = _load(place)
        if flat is None or flat[1] != stamp.size:
            continue
        index = _unpacked(flat)
        if tuple(flat[2:4]) == (stamp.modified, stamp.changed):
            return index
        if index.digest == content_digest(data):
            if stamp.truncated() == stamp:
                _save([place], _packed(index, stamp), path, required=False)
            return index
    index = RecordIndex(scan(data, path), content_digest(data))
    if Stamp.of(path) != stamp:
        raise ValueError(f"{path}: the file changed while it was read; start again when it is complete")
    if not places:
        return index
    saved = _save(places, _packed(index, stamp.truncated()), path)
    flat = None if saved is None else _load(saved)
    # What lies in the file is mapped, and costs no memory of this process.
    return index if flat is None else _unpacked(flat)


def content_digest(data: mmap.mmap) -> str:
    """BLAKE2b of a content, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _places(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.index.npy")
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = configured if configured.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no home folder, as in some containers
        return
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    yield cache / "lit_cvit" / "indexes" / f"{name}.npy"


def _packed(index: RecordIndex, stamp: Stamp) -> Offsets:
    layout = index.layout
    digest = np.frombuffer(bytes.fromhex(index.digest), np.int64)
    sizes = [int(layout.form), len(layout.starts), len(layout.extra)]
    head = [_VERSION, stamp.size, stamp.modified, stamp.changed, *digest, 0, 0, *sizes]
    flat = np.concatenate((np.array(head, np.int64), layout.starts, layout.ends, layout.extra))
    flat[6:8] = _checksum(flat)
    return flat


def _unpacked(flat: Offsets) -> RecordIndex:
    form, num_pieces = Form(int(flat[8])), int(flat[9])
    ends = _HEAD + num_pieces
    layout = Layout(form, flat[_HEAD:ends], flat[ends : ends + num_pieces], flat[ends + num_pieces :])
    return RecordIndex(layout, flat[4:6].tobytes().hex())


def _checksum(flat: Offsets) -> Offsets:
    hashed = hashlib.blake2b(flat[:6].tobytes(), digest_size=16)
    hashed.update(flat[8:].data)
    return np.frombuffer(hashed.digest(), np.int64)


def _load(place: Path) -> Offsets | None:
    try:
        flat = np.asarray(np.lib.format.open_memmap(place, mode="r"))
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError):
        # The last two come of a header that is no Python literal.
        return None
    if flat.dtype != np.int64 or flat.ndim != 1 or len(flat) < _HEAD or flat[0] != _VERSION:
        return None
    if len(flat) != _HEAD + 2 * flat[9] + flat[10] or (flat[6:8] != _checksum(flat)).any():
        return None
    return flat


def _save(places: list[Path], flat: Offsets, path: Path, *, required: bool = True) -> Path | None:
    """Write the index to the first place that takes it; a reader sees all of it or nothing."""
    failures = []
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".index-") as folder:
                temporary = Path(folder) / place.name
                np.save(temporary, flat)
                # Whoever may read the data may read its index.
                temporary.chmod(path.stat().st_mode & 0o666)
                temporary.replace(place)
            return place
        except OSError as error:
            failures.append(f"{place}: {error.strerror}")
    if required:
        warnings.warn(
            f"{path}: its index cannot be saved, so the file is scanned on every start; make one of these "
            f"places writable, or set XDG_CACHE_HOME ({'; '.join(failures)})",
            stacklevel=2,
        )
    return None
