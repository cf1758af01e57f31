"""RunLock: one living process writes a run folder.

The lock is the file `.lock`, made by a call that fails where it is there already. It says who holds it: host
(boot id and process namespace of the kernel, so that two containers of one name are two hosts), process, when
that process started, and a token. A thread touches it every ten seconds, also through a long evaluation.

A process of the same host that is gone, or whose number another process has by now, holds nothing; whether
a holder on another host lives, only its heartbeat says, by the clock of the file system. Nobody removes the
lock of a dead process, which two could do at once, the second removing what the first has just made. Whoever
takes over creates `.lock.<token of the dead>` instead, which only one can, and then renames it to `.lock`;
the end of this chain is the holder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_NAME = ".lock"
_BEAT, _DEAD = 10.0, 60.0
# A writer reads the lock again if it has not for so many seconds: it may have been suspended.
_TRUSTED = 5.0
_WRITING = 0.01
_GONE = ("Z", "X", "x")


class RunInUse(ValueError):
    """Another living process writes the run."""


class LockLost(ValueError):
    """Another process has taken the run over, so this one must not write it any more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: Name of the machine, for people.
        kernel: Boot id and process namespace, in which `process` has its meaning; empty where there are none.
        process: Process id.
        started: When it started, in ticks since the boot; empty where the system does not say.
        token: Random, one for each lock that was ever made.
    """

    host: str
    kernel: str
    process: int
    started: str
    token: str

    def __post_init__(self) -> None:
        """Refuse what no process has written.

        Raises:
            ValueError: a field cannot be one of a process, or the token none of a file's name.
        """
        texts = (self.host, self.kernel, self.started, self.token)
        is_process = type(self.process) is int and 0 < self.process < 1 << 31
        if not is_process or not all(isinstance(text, str) for text in texts) or not self.token.isalnum():
            raise ValueError(f"no process has written {self}")

    @classmethod
    def this_process(cls) -> Holder:
        """A holder of a new token."""
        process = os.getpid()
        started = _state(process)[1]
        return cls(socket.gethostname(), _kernel(), process, started, secrets.token_hex(8))

    @property
    def is_here(self) -> bool:
        """Whether its process number has a meaning for this process."""
        return self.kernel != "" and self.kernel == _kernel()

    def lives(self, age: float) -> bool:
        """Whether the process lives, as far as can be said from here.

        Args:
            age: Seconds since its last heartbeat.
        """
        if self.is_here:
            try:
                os.kill(self.process, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass  # another user's
            state, started = _state(self.process)
            if started and self.started:
                return started == self.started and state not in _GONE
        return age < _DEAD

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class RunLock:
    """The lock of a run folder, held until `release`; children of the process do not hold it.

    Attributes:
        holder: What the lock says of this process.
    """

    def __init__(self, folder: Path, holder: Holder) -> None:
        self.folder, self.holder = folder, holder
        self._seen = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat of the run", daemon=True)

    @classmethod
    def acquire(cls, folder: Path) -> RunLock:
        """Lock a run folder, at once or not at all; the lock of a dead process is taken over.

        Raises:
            RunInUse: another living process holds it; names the process.
        """
        lock = cls(folder, Holder.this_process())
        while not lock._tried():
            pass
        lock._thread.start()
        return lock

    def require(self) -> None:
        """Make sure that this process still holds the lock; cheap enough for every write.

        Raises:
            LockLost: another process has taken it over while this one was suspended.
        """
        if abs(time.time() - self._seen) > _TRUSTED:
            self._look()

    def release(self) -> None:
        """Give the lock back; a child process, and a holder that was taken over from, do nothing."""
        self._stop.set()
        if os.getpid() != self.holder.process:
            return
        if self._holds():
            (self.folder / _NAME).unlink()

    # -- taking it ------------------------------------------------------------------------------------------

    def _tried(self) -> bool:
        """Try once; False means that another process was faster somewhere, and all is to be read again."""
        found = _end_of_chain(self.folder)
        try:
            lives = found is not None and found.lives()
        except FileNotFoundError:
            # Since it was read, its holder renamed or released it; neither says that the holder is dead.
            return False
        if found is not None and lives:
            if found.holder is None:
                time.sleep(_WRITING)
                return False
            elsewhere = f" (it counts as dead {_DEAD:.0f} seconds after its last heartbeat)"
            raise RunInUse(
                f"{self.folder} is in use by {found.holder}{'' if found.holder.is_here else elsewhere}; wait "
                "until it is done, end it, or start another run under another --name"
            )
        mine = self.folder / (found.next_name if found is not None else _NAME)
        try:
            with mine.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self.holder)) + "\n")
        except FileExistsError:
            return False
        end = _end_of_chain(self.folder)
        if end is None or end.holder != self.holder:
            # What it follows was released or taken over meanwhile.
            mine.unlink(missing_ok=True)
            return False
        if mine.name != _NAME:
            mine.replace(self.folder / _NAME)
        for left in self.folder.glob(f"{_NAME}?*"):
            left.unlink(missing_ok=True)
        return True

    # -- keeping it -----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            # A file system that does not answer is no reason to stop; the holder looks before it writes.
            with contextlib.suppress(OSError, LockLost):
                self._look()
                os.utime(self.folder / _NAME)

    def _look(self) -> None:
        end = _end_of_chain(self.folder)
        if end is None:
            raise LockLost(
                f"{self.folder / _NAME} was removed, so another process may write the run; this one stops. "
                "If no other does, go on with --ckpt_path last; nobody has to remove a lock"
            )
        if end.holder != self.holder:
            raise LockLost(
                f"{self.folder} was taken over by {end.holder or 'another process'} while this process was "
                "suspended; it stops here and leaves the run to the other"
            )
        self._seen = time.time()

    def _holds(self) -> bool:
        end = _end_of_chain(self.folder)
        return end is not None and end.holder == self.holder


def holder_of(folder: Path) -> Holder | None:
    """The living process that holds the lock of a folder, or None."""
    while True:
        found = _end_of_chain(folder)
        with contextlib.suppress(FileNotFoundError):
            return found.holder if found is not None and found.lives() else None


@dataclass(frozen=True)
class _Link:
    """A file of the chain: its path, and its holder, or None while that is not written."""

    path: Path
    holder: Holder | None

    @property
    def next_name(self) -> str:
        """Name of the file of whoever takes over."""
        return f"{_NAME}.{self.holder.token}" if self.holder is not None else f"{self.path.name}.unwritten"

    def lives(self) -> bool:
        """Whether the holder lives; one that is not written may be about to be, for a minute.

        Raises:
            FileNotFoundError: the file has another name by now, or is gone.
        """
        age = _now(self.path.parent) - self.path.stat().st_mtime
        return self.holder.lives(age) if self.holder is not None else age < _DEAD


def _end_of_chain(folder: Path) -> _Link | None:
    """The last of those who followed one another, or None if nobody holds the lock."""
    link = further = _read(folder / _NAME)
    while further is not None:
        link = further
        further = _read(folder / link.next_name)
    return link


def _read(path: Path) -> _Link | None:
    try:
        return _Link(path, Holder(**json.loads(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return _Link(path, None)


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    probe = folder / f"{_NAME}-{secrets.token_hex(8)}"
    try:
        with probe.open("x") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _kernel() -> str:
    """Boot id and process namespace: process ids of equal ones are comparable; empty where there are none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state(process: int) -> tuple[str, str]:
    """State and start of a process in ticks since the boot; empty where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    # The name before it, in brackets, may hold anything.
    rest = fields.rpartition(")")[2].split()
    return rest[0], rest[19]
