"""Writes the files of a prepared task: each is complete once it has its name, and one process writes it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MANIFEST = "manifest.json"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep another process from writing a task meanwhile; the lock ends with this process, however it dies.

    It is on the part file of the manifest, which takes its name last, so that no file of its own is left.
    Where the file system has no locks, nothing is kept.

    Raises:
        ValueError: another process writes the task; names the folder.
    """
    if sys.platform == "win32":  # an open file cannot be renamed there
        yield
        return
    part = _part(folder / MANIFEST)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _locked(descriptor, part):
            raise ValueError(f"{folder}: another `prepare` is writing this task; wait until it is done")
        try:
            yield
        finally:
            if _is_open_as(descriptor, part):  # and was not renamed
                part.unlink()
    finally:
        os.close(descriptor)


def _locked(descriptor: int, part: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks, and must do without
        return True
    # Between opening and locking, the one that held the lock may have renamed or removed the file.
    return _is_open_as(descriptor, part)


def _is_open_as(descriptor: int, part: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), part.stat())
    except FileNotFoundError:
        return False


def replace_file(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Write a file beside its place and rename it; return the number of chunks and the file's digest."""
    part = _part(path)
    hashed, number = hashlib.blake2b(digest_size=16), 0
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                hashed.update(chunk)
                number += 1
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    return number, hashed.hexdigest()


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def digest_of_file(path: Path) -> str:
    """BLAKE2b of a file, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def digest_of_names(folder: Path) -> str:
    """BLAKE2b of the names of all files in a folder and those below, 32 hex digits."""
    hashed = hashlib.blake2b(digest_size=16)
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            hashed.update(f"{os.path.relpath(place, folder)}/{name}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()
