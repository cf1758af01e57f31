"""Ranks that end together: when one fails, its error is reported once, and no process of the run is left.

Lightning's launcher looks every five seconds for ranks that died and kills the main process then; of a main
process that fails it leaves the other ranks to themselves. Here the ranks agree which of them reports: the
first that fails. The others, which mostly lose their connection to it, end with status 1 and in silence.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from lit_cvit.stream.checkpoints import StopSignal
from lit_cvit.utils.distributed import num_ranks, rank
from lit_cvit.utils.processes import end_with, end_with_parent

_STARTED_BY, _KEY, _ASKED = "LIT_CVIT_STARTED_BY", "lit_cvit/failed", "lit_cvit/asked"
# Seconds that the other ranks have to end by themselves after one failed.
GRACE = 10.0
_POLL = 0.2
# A broken connection is an error on all ranks at once; the one that started the others asks first, because it
# can see which of them ended.
_FIRST, _OTHERS = 1.0, 3.0
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


class RankLauncher(_SubprocessScriptLauncher):
    """Starts this machine's other ranks, and ends this process if one of them fails and nothing else does."""

    def __init__(self, environment: ClusterEnvironment, num_processes: int, num_nodes: int) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self._ended = threading.Event()
        self._launched = False

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the other ranks, unless a launcher or an earlier call did; then call the function."""
        if self._launched:  # a stage, inside of the run
            return function(*args, **kwargs)
        self._launched = True
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            os.environ[_STARTED_BY] = str(os.getpid())
            self._call_children_scripts()
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        else:
            _end_with_launcher(environment)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch(self) -> None:
        """End this process where a rank failed and the main thread goes on waiting, as inside of NCCL."""
        while not any(codes := [process.poll() for process in self.procs]):
            if codes.count(0) == len(codes):
                return
            time.sleep(_POLL)
        if any(code in _STOPPED for code in codes):
            return
        if not self._ended.wait(GRACE):
            self.end()
            sys.stdout.flush()
            os._exit(1)

    def end(self, within: float = 0.0) -> None:
        """End the ranks that were started from here.

        Args:
            within: Seconds that they have to end by themselves.
        """
        self._ended.set()
        until = time.monotonic() + within
        for process in self.procs:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def death(self) -> str:
        """Which rank was ended by a signal, and what to do about it; empty if none was."""
        for number, process in enumerate(self.procs, start=1):
            code = process.poll()
            if code is not None and code < 0:
                return (
                    f"rank {number} of this machine (process {process.pid}) was ended by "
                    f"{signal.Signals(-code).name}; if nobody sent it, memory ran out: try a smaller "
                    "data.batch_size or data.num_workers, and go on with --ckpt_path last"
                )
        return ""


def use_rank_launcher(strategy: Strategy) -> None:
    """Put a `RankLauncher` in the place of Lightning's, where a strategy has several processes."""
    found = strategy.launcher
    if isinstance(found, _SubprocessScriptLauncher):
        strategy._launcher = RankLauncher(found.cluster_environment, found.num_processes, found.num_nodes)


def _end_with_launcher(environment: ClusterEnvironment) -> None:
    """Leave no rank behind whose launcher is killed: rank 0 of this machine, or torchrun's agent."""
    if environment.local_rank() > 0 and _STARTED_BY in os.environ:
        end_with(int(os.environ[_STARTED_BY]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


@contextmanager
def ending_together(launcher: object, stop: StopSignal) -> Iterator[None]:
    """Around a fit: of an error on several ranks, one reports; the others end with status 1.

    Args:
        launcher: The strategy's; a `RankLauncher` where there may be other ranks.
        stop: Notices the signals, by which launchers end the ranks that a failed one has left.

    Raises:
        SystemExit: another rank reports.
        Stopped: the connection broke, and this rank was asked to stop.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(launcher, RankLauncher) or num_ranks() == 1:
            raise
        death = _wait(error, launcher, stop)
        if stop.received and isinstance(error, RuntimeError):
            raise stop.stopped() from error
        reports = _reports(error)
        # Those that were started from here are ended below; no others can be.
        if rank() == 0 and len(launcher.procs) + 1 < num_ranks():
            _let_the_others_ask()
        # The one that reports may still be writing its last words.
        launcher.end(within=0.0 if reports else GRACE)
        if not reports:
            raise SystemExit(1) from error
        if death:
            raise ValueError(death) from error
        raise


def _wait(error: Exception, launcher: RankLauncher, stop: StopSignal) -> str:
    """Give a rank that lost its connection the time to find out why; returns what it found of a death."""
    if not isinstance(error, RuntimeError):
        return ""
    until = time.monotonic() + (_FIRST if launcher.procs else _OTHERS)
    while time.monotonic() < until:
        death = launcher.death()
        if death or stop.received or _is_reported():
            return death
        time.sleep(_POLL / 2)
    return ""


def _is_reported() -> bool:
    """Whether a rank reports already, or rank 0, which holds the store, has ended."""
    try:
        return bool(_store().check([_KEY]))
    except RuntimeError:
        return True


def _reports(error: Exception) -> bool:
    """Whether this rank reports: the first of all that asks."""
    try:
        store = _store()
        reports = store.compare_set(_KEY, "", str(rank())).decode() == str(rank())
        store.add(_ASKED, 1)
        return reports
    except RuntimeError:
        # Rank 0 has ended, and most likely it is the reason; whatever has another one is new.
        return not isinstance(error, RuntimeError)


def _let_the_others_ask() -> None:
    """Keep the store, which may end with this process, until every rank has asked or does not come to it.

    An error that all ranks raise at one step would otherwise be reported twice, whenever this one is faster.
    """
    until = time.monotonic() + _OTHERS
    # A launcher may hold the store instead, and have ended: then there is nothing to keep.
    with suppress(RuntimeError):
        while _store().add(_ASKED, 0) < num_ranks() and time.monotonic() < until:
            time.sleep(_POLL / 2)


def _store() -> Any:
    store = distributed.distributed_c10d._get_default_store()
    store.set_timeout(timedelta(seconds=GRACE))
    return store
