"""The index of a record file: where its lines begin, found once, saved, and memory-mapped afterwards.

It lies beside the file as `<name>.index.npy` or, where that folder cannot be written, in the folder
`lit_cvit/indexes` of the user's cache ($XDG_CACHE_HOME, else ~/.cache). Beside it lies, for a JSON list or a
COCO file, the copy of the records as lines, `<name>.index.<digest of the file>.jsonl`, which is what is read.
Files of less than 1 MB are scanned faster than an index is opened: they have none, and their copy is a
temporary file, as is a copy that finds no folder.

An index is for one content. It is taken as it is while size, modification time and status-change time of
the file are those it was made for; no program sets the last of them at will, so a file cannot be changed
behind it. A file of the same size with other times (copied, touched) is hashed: the same digest keeps the
index. Times of the last two seconds are not trusted, because a clock tick can hide a second change. An index
that is torn or foreign (its own checksum says so), or whose copy is missing or cut short, is made anew.

Processes that make the same index at once write the same bytes under the same names, each complete before it
gets its name. A copy of an earlier content is removed when the new one is in place; who has it open keeps it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lit_cvit.data.errors import RecordError
from lit_cvit.data.records.convert import CocoCopy, ListCopy, copy_of, write_lines
from lit_cvit.data.records.lines import Form, Offsets, find_lines, no_numbers
from lit_cvit.data.records.saved import SavedIndex, Stamp

SAVED_FROM = 1 << 20
"""Size in bytes from which on the index of a file is saved."""

_BUFFER = 1 << 20
_SCRATCH = ".lit_cvit-index-"
_LEFT_BEHIND_S = 3600
_COPY = re.compile(r"\.[0-9a-f]{32}\.jsonl")


@dataclass(frozen=True)
class RecordIndex:
    """The records of one content of a file, as lines.

    Attributes:
        form: How they stand in the file itself.
        starts: (records + 1,) byte of `text` at which each line starts, and the end.
        numbers: (records,) number of each line, from 1; empty if no line is blank.
        digest: BLAKE2b of the file's content, 32 hex digits.
        text: The lines: the file, or its copy.
    """

    form: Form
    starts: Offsets
    numbers: Offsets
    digest: str
    text: io.FileIO

    def __len__(self) -> int:
        return len(self.starts) - 1


def open_index(path: Path) -> RecordIndex:
    """Return the saved index of a file, or make and save it; its `text` is the caller's to close.

    Warns where it cannot be saved.

    Raises:
        RecordError: the file is empty, in no known form or broken, or it changes meanwhile; names the place.
    """
    with io.FileIO(path) as file:
        stamp = Stamp.of(file)
        places = list(_places(path)) if stamp.size >= SAVED_FROM else []
        for place in places:
            if (saved := _saved(place, file, stamp)) is not None:
                return saved
        digest, copy, failures = content_digest(file), copy_of(file, path), []
        for place in places:
            try:
                return _store(place, path, file, stamp, digest, copy)
            except OSError as error:
                failures.append(f"{place}: {error.strerror}")
        if failures:
            warnings.warn(
                f"{path}: its index cannot be saved, so the file is scanned on every start; make one of "
                f"these places writable, or set XDG_CACHE_HOME ({'; '.join(failures)})",
                stacklevel=2,
            )
        if copy is None:
            return _scan(path, file, stamp, digest, None)
        try:
            with tempfile.TemporaryFile() as unnamed, _again(unnamed) as text:
                return _scan(path, file, stamp, digest, (copy, text))
        except OSError as error:
            what = f"its records cannot be copied to a temporary file ({error.strerror})"
            raise RecordError.of(what, place=str(path), fix="free some space, or set TMPDIR") from error


def content_digest(file: io.FileIO) -> str:
    """BLAKE2b of a content, 32 hex digits."""
    file.seek(0)
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _scan(
    path: Path,
    file: io.FileIO,
    stamp: Stamp,
    digest: str,
    copied: tuple[ListCopy | CocoCopy, io.FileIO] | None,
) -> RecordIndex:
    if copied is None:
        index = RecordIndex(Form.LINES, *find_lines(file), digest, _again(file))
    else:
        copy, text = copied
        with open(text.fileno(), "wb", buffering=_BUFFER, closefd=False) as out:
            starts = write_lines(copy, out)
        index = RecordIndex(copy.form, starts, no_numbers(), digest, _again(text))
    if Stamp.of(file) != stamp:
        index.text.close()
        what, fix = "the file changed while it was read", "start again when it is complete"
        raise RecordError.of(what, place=str(path), fix=fix)
    return index


def _again(file: IO[bytes]) -> io.FileIO:
    """The same open file, which lives on when the other is closed."""
    return io.FileIO(os.dup(file.fileno()), "r+" if file.writable() else "r")


def _places(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.index.npy")
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = configured if configured.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no home folder, as in some containers
        return
    name = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=16).hexdigest()
    yield cache / "lit_cvit" / "indexes" / f"{name}.npy"


def _copy_place(place: Path, digest: str) -> Path:
    return place.with_name(f"{place.stem}.{digest}.jsonl")


def _saved(place: Path, file: io.FileIO, stamp: Stamp) -> RecordIndex | None:
    """The index that lies at a place, if it is that of the file as it is."""
    saved = SavedIndex.load(place)
    if saved is None or saved.stamp.size != stamp.size:
        return None
    if saved.stamp != stamp:
        if saved.digest != content_digest(file):
            return None
        if stamp.truncated() == stamp:
            saved = dataclasses.replace(saved, stamp=stamp)
            with contextlib.suppress(OSError), _scratch(place) as folder:
                _save(saved, folder, place, file)
    return _with_text(saved, place, file)


def _with_text(saved: SavedIndex, place: Path, file: io.FileIO) -> RecordIndex | None:
    """The index with its lines opened; None if the copy is missing or cut short."""
    try:
        text = _again(file) if saved.form is Form.LINES else io.FileIO(_copy_place(place, saved.digest))
    except OSError:
        return None
    if os.fstat(text.fileno()).st_size != saved.starts[-1]:
        text.close()
        return None
    return RecordIndex(saved.form, saved.starts, saved.numbers, saved.digest, text)


def _store(
    place: Path, path: Path, file: io.FileIO, stamp: Stamp, digest: str, copy: ListCopy | CocoCopy | None
) -> RecordIndex:
    """Make the index and save it at a place; a reader sees all of it or nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    with _scratch(place) as folder:
        if copy is None:
            made = _scan(path, file, stamp, digest, None)
        else:
            with io.FileIO(Path(folder, "copy"), "x+") as text:
                made = _scan(path, file, stamp, digest, (copy, text))
                os.fsync(text.fileno())
        with contextlib.closing(made.text):
            if copy is not None:
                _publish(Path(folder, "copy"), _copy_place(place, digest), file)
            saved = SavedIndex(stamp.truncated(), digest, made.form, made.starts, made.numbers)
            try:
                _save(saved, folder, place, file)
            except OSError:
                _copy_place(place, digest).unlink(missing_ok=True)
                raise
    for other in place.parent.glob(f"{glob.escape(place.stem)}.*.jsonl"):
        if _COPY.fullmatch(other.name.removeprefix(place.stem)) and digest not in other.name:
            other.unlink(missing_ok=True)
    # What lies in the file is mapped, and costs no memory of this process.
    mapped = SavedIndex.load(place)
    found = _with_text(mapped, place, file) if mapped is not None and mapped.digest == digest else None
    if found is None:
        raise OSError(None, "another process changed it meanwhile")
    return found


def _scratch(place: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=place.parent, prefix=_SCRATCH)


def _sweep(place: Path) -> None:
    """Remove what processes that were killed left behind; a living one is done long before."""
    for left in place.parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # its owner may be removing it
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(left)


def _save(saved: SavedIndex, folder: str, place: Path, file: io.FileIO) -> None:
    saved.write(Path(folder, "index"))
    _publish(Path(folder, "index"), place, file)


def _publish(written: Path, place: Path, source: io.FileIO) -> None:
    # Whoever may read the data may read its index.
    written.chmod(os.fstat(source.fileno()).st_mode & 0o666)
    written.replace(place)
