"""The one writer of a run's files: every file is whole or absent, whenever the process dies.

A file is written under a temporary name in its own folder, fsynced, renamed, and the folder fsynced. JSON
lines are appended; a crash can only tear the last line, which readers drop and the next append removes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from lit_cvit.run.files import whole_lines
from lit_cvit.run.lock import RunLock
from lit_cvit.run.state import check_plain

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = ".tmp"


class Fault(Protocol):
    """A hook that tests use to break a write; it may raise, or end the process."""

    def __call__(self, event: str, path: Path) -> None:
        """Called with `before`, `middle` (partly written, not in place) and `after` for every write."""
        ...


def _no_fault(event: str, path: Path) -> None:
    return None


class Writer:
    """Writes the files of a run.

    Args:
        enabled: False makes every call a no-op: ranks other than 0 do not write.
        fault: Called around every write; tests crash there.
        lines_per_sync: Appended lines reach the disk (fsync) every so many lines. A killed process loses
            none of them either way; a power cut loses at most this many.

    Raises:
        ValueError: `lines_per_sync` is below 1.
    """

    def __init__(self, *, enabled: bool = True, fault: Fault | None = None, lines_per_sync: int = 16) -> None:
        if lines_per_sync < 1:
            raise ValueError(f"lines_per_sync must be 1 or more, got {lines_per_sync}")
        self.enabled = enabled
        self.lines_per_sync = lines_per_sync
        self._fault: Fault = fault or _no_fault
        self._unsynced: dict[Path, int] = {}
        self._lock: RunLock | None = None

    def lock(self, folder: Path) -> None:
        """Keep other processes from writing a run folder until `unlock`; every write makes sure of it.

        Raises:
            RunInUse: another living process writes it; names the process.
        """
        if self.enabled:
            self._lock = RunLock.acquire(folder)

    def unlock(self) -> None:
        """Let others write; does nothing without a lock."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def write_with(self, path: Path, fill: Callable[[BinaryIO], object]) -> None:
        """Write a file whose content `fill` streams into an open binary file.

        Raises:
            OSError: the disk is full, the folder read-only ...; names the file, and leaves the old one as it
                was with no half-written file beside it.
        """

        def filled(file: BinaryIO) -> None:
            fill(file)
            self._fault("middle", path)

        self._replace(path, filled)

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Write `data`; errors as for `write_with`."""

        def halves(file: BinaryIO) -> None:
            file.write(data[: len(data) // 2])
            self._fault("middle", path)
            file.write(data[len(data) // 2 :])

        self._replace(path, halves)

    def write_text(self, path: Path, text: str) -> None:
        """Write `text` as UTF-8; errors as for `write_with`."""
        self.write_bytes(path, text.encode())

    def write_json(self, path: Path, value: object) -> None:
        """Write plain JSON, indented. Non-finite numbers are kept in Python's spelling (NaN, Infinity).

        Raises:
            ValueError: `value` holds something that JSON would lose or change; names the place.
            OSError: as for `write_with`.
        """
        check_plain(value, where=path.name)
        self.write_bytes(path, _encode(value, indent=2) + b"\n")

    def write_lines(self, path: Path, records: Iterable[Mapping[str, object]]) -> None:
        """Write JSON lines as one whole file; errors as for `append_line`."""
        lines = []
        for record in records:
            check_plain(record, where=path.name)
            lines.append(_encode(record) + b"\n")
        self.write_bytes(path, b"".join(lines))

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file; equal tensors give equal bytes. Errors as for `write_with`."""
        if not self.enabled:
            return
        from safetensors.torch import save

        self.write_bytes(path, save(_unshared(tensors)))

    def append_line(self, path: Path, record: Mapping[str, object]) -> None:
        """Append one JSON line; a line torn by an earlier crash is removed first.

        Raises:
            ValueError: `record` holds something that JSON would lose or change; names the place.
            OSError: as for `write_with`; the file ends with its last whole line.
        """
        if not self.enabled:
            return
        check_plain(record, where=path.name)
        line = _encode(record) + b"\n"
        self._require_lock()
        try:
            self._fault("before", path)
            first = path not in self._unsynced
            if first:
                path.parent.mkdir(parents=True, exist_ok=True)
                _drop_torn_line(path)
                self._unsynced[path] = 0
            with path.open("ab", buffering=0) as file:
                self._append(file.fileno(), path, line)
            if first:
                _sync_folder(path.parent)
            self._fault("after", path)
        except OSError as error:
            raise _named(error, path) from error

    def sync(self) -> None:
        """Bring every appended line to the disk."""
        for path, num_lines in self._unsynced.items():
            if num_lines and path.is_file():
                with path.open("ab") as file:
                    os.fsync(file.fileno())
            self._unsynced[path] = 0

    def truncate_jsonl(self, path: Path, keep: Callable[[dict[str, Any]], bool]) -> int:
        """Rewrite a JSONL file with only the rows that `keep` accepts; returns how many rows went.

        A missing file counts as empty. A torn last line goes too, uncounted.

        Raises:
            ValueError: a line before the last is not a JSON object; names file and line.
            OSError: as for `write_with`.
        """
        if not self.enabled or not path.is_file():
            return 0
        remaining: list[bytes] = []
        num_rows = 0
        for line, row in whole_lines(path):
            num_rows += 1
            if keep(row):
                remaining.append(line)
        if sum(map(len, remaining)) != path.stat().st_size:
            self.write_bytes(path, b"".join(remaining))
        return num_rows - len(remaining)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        if not self.enabled or not path.exists():
            return
        self._require_lock()
        self._fault("before", path)
        path.unlink()
        _sync_folder(path.parent)
        self._unsynced.pop(path, None)
        self._fault("after", path)

    def clear_leftovers(self, folder: Path) -> None:
        """Remove the temporary files that killed writes left in `folder` and below."""
        if self.enabled:
            for path in folder.rglob(f".*{_TEMPORARY}"):
                path.unlink()

    def _replace(self, path: Path, fill: Callable[[BinaryIO], object]) -> None:
        if not self.enabled:
            return
        self._require_lock()
        temporary = path.with_name(f".{path.name}{_TEMPORARY}")
        try:
            self._fault("before", path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
            self._fault("after", path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _named(error, path) from error
        except (Exception, KeyboardInterrupt):
            temporary.unlink(missing_ok=True)
            raise

    def _require_lock(self) -> None:
        if self._lock is not None:
            self._lock.require()

    def _append(self, descriptor: int, path: Path, line: bytes) -> None:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        try:
            _write_all(descriptor, line[: len(line) // 2])
            self._fault("middle", path)
            _write_all(descriptor, line[len(line) // 2 :])
        except (Exception, KeyboardInterrupt):
            os.ftruncate(descriptor, size)
            raise
        self._unsynced[path] += 1
        if self._unsynced[path] >= self.lines_per_sync:
            os.fsync(descriptor)
            self._unsynced[path] = 0


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    size = sum(len(line) for line, _ in whole_lines(path))
    if size != path.stat().st_size:
        os.truncate(path, size)


def _encode(value: object, *, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:
        # A lone surrogate, as a byte-level tokenizer may decode, has no UTF-8 form.
        return json.dumps(value, indent=indent).encode()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU tensors of which no two share memory, as safetensors asks."""
    result: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in storages:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _named(error: OSError, path: Path) -> OSError:
    if error.errno is None:
        return OSError(f"cannot write {path}: {error}")
    return OSError(error.errno, f"cannot write: {error.strerror}", str(path))
