"""Makes cells, each in a process of its own, as many side by side as are asked for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from lit_cvit.cli.errors import CleanExit
from lit_cvit.sweep.cells import Sweep
from lit_cvit.sweep.checking import Checked, refuse_other_runs
from lit_cvit.sweep.claims import is_claimed
from lit_cvit.sweep.making import TAKEN, Job, make
from lit_cvit.sweep.progress import Progress
from lit_cvit.sweep.states import failure, has_evaluated, is_done, note_failure
from lit_cvit.utils.forking import LAZY, ONE_THREAD, forking

# Seconds between two checks of what other processes have made.
_LOOK = 2.0
# Exit statuses of a run that has written a checkpoint.
_STOPPED = {143: "SIGTERM", 130: "SIGINT"}
PRELOAD = ("lit_cvit.sweep.making", *LAZY)


@dataclass
class _Made:
    """A cell in a process."""

    checked: Checked
    process: BaseProcess


class Sweeper:
    """Makes the cells of a sweep that no other process makes.

    Args:
        sweep: The sweep.
        checked: The cells to make, checked.
        processes: How many side by side.
        progress: What a person sees of it.
    """

    def __init__(self, sweep: Sweep, checked: Sequence[Checked], processes: int, progress: Progress) -> None:
        self.sweep, self.processes, self.progress = sweep, processes, progress
        self._left = {each.cell.name: each for each in checked}
        self._failed: set[str] = set()
        self._running: dict[str, _Made] = {}
        self._start = time.time()

    def run(self) -> bool:
        """Make the cells; returns whether none failed.

        Raises:
            ValueError: a run folder holds another configuration, or a cell starts from one that is neither
                finished nor among these.
        """
        refuse_other_runs(self.sweep, [*self._left.values()])
        self._drop_done()
        self._require_sources()
        # Where nothing is left, no process has to be ready.
        context = forking(PRELOAD, environment(self.processes)) if self._left else None
        with self.progress, self._stopping():
            while context and self._left:
                while len(self._running) < self.processes and (chosen := self._next()):
                    self._begin(context, chosen)
                if not self._running and not self._waits():
                    break
                if self._running:
                    connection.wait([made.process.sentinel for made in self._running.values()], _LOOK)
                else:
                    time.sleep(_LOOK)
                self._reap()
                self.progress.show()
        return not self._failed

    # -- choosing -------------------------------------------------------------------------------------------

    def _drop_done(self) -> None:
        for name, checked in list(self._left.items()):
            if is_done(self.sweep, checked):
                del self._left[name]

    def _require_sources(self) -> None:
        for checked in self._left.values():
            cell = checked.cell
            if cell.start_from and cell.start_from not in self._left and not self._has_source(checked):
                raise CleanExit(
                    f"cell {cell.name} starts from {cell.start_from}, which is not finished; "
                    "let --only choose both"
                )

    def _has_source(self, checked: Checked) -> bool:
        """Whether the cell that one starts from is finished, or there is none."""
        source = checked.cell.start_from
        if not source:
            return True
        return source not in self._left and has_evaluated(self.sweep.run_path(self.sweep.cell(source)))

    def _next(self) -> Checked | None:
        """A cell that can begin now."""
        for name, checked in list(self._left.items()):
            if name in self._running:
                continue
            if is_done(self.sweep, checked):
                # Another process has made it meanwhile.
                del self._left[name]
            elif is_claimed(self.sweep.folder(checked.cell)):
                continue
            elif checked.cell.start_from in self._failed:
                self._fail(checked, f"it starts from {checked.cell.start_from}, which failed")
            elif self._failed_elsewhere(checked):
                del self._left[name]
                self._failed.add(name)
            elif self._has_source(checked):
                return checked
        return None

    def _failed_elsewhere(self, checked: Checked) -> bool:
        found = failure(self.sweep.failure_path(checked.cell))
        return found is not None and found.when > self._start

    def _waits(self) -> bool:
        """Whether a cell waits for one that another process makes."""
        return any(
            checked.cell.start_from in self._left and checked.cell.start_from not in self._running
            for checked in self._left.values()
        )

    # -- processes ------------------------------------------------------------------------------------------

    def _begin(self, context: ForkServerContext | SpawnContext, checked: Checked) -> None:
        job = Job(self.sweep, checked, Path.cwd())
        process: BaseProcess = context.Process(target=make, args=(job,), name=checked.cell.name)
        process.start()
        self._running[checked.cell.name] = _Made(checked, process)
        self.progress.begins(checked.cell)

    def _reap(self) -> None:
        for name, made in list(self._running.items()):
            if made.process.is_alive():
                continue
            made.process.join()
            del self._running[name]
            status = made.process.exitcode
            if status == TAKEN:
                continue
            if status == 0 and is_done(self.sweep, made.checked):
                del self._left[name]
                self.progress.ends(made.checked)
            else:
                self._fail(made.checked, _reason(status, self.sweep.log_path(made.checked.cell)))

    def _fail(self, checked: Checked, reason: str) -> None:
        cell = checked.cell
        del self._left[cell.name]
        self._failed.add(cell.name)
        note_failure(self.sweep.failure_path(cell), reason)
        self.progress.fails(cell, reason, self.sweep.log_path(cell))

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let cells write a checkpoint when this process is to stop, and wait for that."""
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            yield
        except BaseException:
            for made in self._running.values():
                made.process.terminate()
            for made in self._running.values():
                made.process.join()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def environment(processes: int) -> dict[str, str]:
    """The environment of cells: one thread each where several run side by side, unless it is set already."""
    return {key: text for key, text in ONE_THREAD.items() if processes > 1 and key not in os.environ}


def _reason(status: int | None, log: Path) -> str:
    """Why a process failed: what killed it, or the last line that it printed."""
    if status is not None and status < 0:
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    if status in _STOPPED:
        return f"stopped by {_STOPPED[status]}; the next call goes on"
    if status == 0:
        return "its run ended without scores of all stages"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"{last} (status {status})"
