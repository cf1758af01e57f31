"""The launcher of ranks ends what it started, says what ended a rank, and ends with a rank that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_cvit.stream import ranks
from lit_cvit.stream.checkpoints import Stopped, StopSignal
from lit_cvit.stream.ranks import RankLauncher, ending_together
from lit_cvit.stream.trainer import ContinualTrainer

SLEEPS = ("sleep", "1000")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[RankLauncher]:
    monkeypatch.setattr(ranks, "GRACE", 0.0)
    made = RankLauncher(LightningEnvironment(), 2, 1)
    yield made
    made.end()


def start(launcher: RankLauncher, *commands: tuple[str, ...]) -> None:
    launcher.procs = [subprocess.Popen(command) for command in commands]


def test_it_takes_the_place_of_lightnings_where_there_are_several_processes() -> None:
    trainer = ContinualTrainer(accelerator="cpu", devices=2, strategy="ddp")
    assert isinstance(trainer.strategy, DDPStrategy)
    found = trainer.strategy.launcher
    assert isinstance(found, RankLauncher)
    assert (found.num_processes, found.num_nodes) == (2, 1)
    assert found.cluster_environment is trainer.strategy.cluster_environment
    alone = ContinualTrainer(accelerator="cpu")
    assert isinstance(alone.strategy, SingleDeviceStrategy)
    assert alone.strategy.launcher is None


def test_ranks_are_started_once_however_often_it_launches(
    launcher: RankLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage is a fit of its own inside of the run's."""
    started: list[RankLauncher] = []
    monkeypatch.setattr(RankLauncher, "_call_children_scripts", lambda each: started.append(each))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LIT_CVIT_STARTED_BY", "0")
    assert launcher.launch(lambda: launcher.launch(str, 3)) == "3"
    assert started == [launcher]
    assert os.environ["LIT_CVIT_STARTED_BY"] == str(os.getpid())


def test_a_rank_that_was_killed_is_named_with_its_signal_and_the_remedy(launcher: RankLauncher) -> None:
    start(launcher, SLEEPS, SLEEPS)
    assert launcher.death() == ""
    launcher.procs[1].kill()
    launcher.procs[1].wait()
    message = launcher.death()
    assert f"rank 2 of this machine (process {launcher.procs[1].pid}) was ended by SIGKILL" in message
    assert "memory" in message
    assert "--ckpt_path last" in message


def test_a_rank_that_failed_by_itself_has_reported_itself(launcher: RankLauncher) -> None:
    start(launcher, ("sh", "-c", "exit 1"))
    launcher.procs[0].wait()
    assert launcher.death() == ""


def test_ending_waits_for_those_that_end_by_themselves_and_kills_the_others(launcher: RankLauncher) -> None:
    start(launcher, ("sleep", "0.2"), SLEEPS)
    launcher.end(within=0.5)
    assert [process.returncode for process in launcher.procs] == [0, -signal.SIGKILL]


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("code", [1, 9])
def test_a_rank_that_failed_ends_this_process_with_status_1_and_the_other_ranks(
    launcher: RankLauncher, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)
    start(launcher, ("sh", "-c", f"exit {code}"), SLEEPS)
    with pytest.raises(Left, match="1"):
        launcher._watch()
    assert launcher.procs[1].returncode == -signal.SIGKILL


@pytest.mark.parametrize("code", [130, 143])
def test_a_rank_that_was_stopped_ends_no_other(launcher: RankLauncher, code: int) -> None:
    start(launcher, ("sh", "-c", f"exit {code}"), SLEEPS)
    launcher._watch()
    assert [process.poll() for process in launcher.procs] == [code, None]


def test_the_watch_is_over_when_all_ranks_have_finished(launcher: RankLauncher) -> None:
    start(launcher, ("true",), ("true",))
    launcher._watch()
    assert [process.returncode for process in launcher.procs] == [0, 0]


def test_an_error_of_a_single_process_passes_as_it_is(launcher: RankLauncher) -> None:
    for found in (None, launcher):
        with pytest.raises(ValueError, match="one's own"), ending_together(found, StopSignal()):
            raise ValueError("one's own")


class Store:
    """What ranks share, as torch's store answers; or a store whose process has ended."""

    def __init__(self, *, gone: bool = False) -> None:
        self.first, self.gone, self.asked = b"", gone, 0

    def check(self, keys: list[str]) -> bool:
        return bool(self._answer(self.first))

    def compare_set(self, key: str, expected: str, wanted: str) -> bytes:
        self.first = self.first or wanted.encode()
        return self._answer(self.first)

    def add(self, key: str, number: int) -> int:
        self.asked += number
        self._answer(b"")
        return self.asked

    def _answer(self, value: bytes) -> bytes:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        return value


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two ranks, of which this process is one; `rank` and `store` may be changed."""
    state = SimpleNamespace(rank=1, store=Store())
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: state.rank)
    monkeypatch.setattr(ranks, "_store", lambda: state.store)
    for name in ("_FIRST", "_OTHERS"):
        monkeypatch.setattr(ranks, name, 0.3)
    return state


LOST = RuntimeError("Connection closed by peer")


def test_the_first_rank_that_fails_reports_and_the_others_end_in_silence(
    launcher: RankLauncher, as_rank: SimpleNamespace
) -> None:
    with pytest.raises(ValueError, match="broken image"), ending_together(launcher, StopSignal()):
        raise ValueError("broken image")
    as_rank.rank = 0
    for error in (LOST, ValueError("broken image")):
        with pytest.raises(SystemExit) as caught, ending_together(launcher, StopSignal()):
            raise error
        assert caught.value.code == 1


def test_rank_0_keeps_the_store_until_the_other_rank_has_asked(
    launcher: RankLauncher, as_rank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that both raise at one step: a rank that finds no store would report it a second time."""
    monkeypatch.setattr(ranks, "_OTHERS", 100.0)
    waits: list[int] = []

    def other_asks(seconds: float) -> None:
        waits.append(as_rank.store.asked)
        as_rank.store.add("asked", len(waits) // 3)

    monkeypatch.setattr(ranks.time, "sleep", other_asks)
    as_rank.rank = 0
    with pytest.raises(ValueError, match="not finite"), ending_together(launcher, StopSignal()):
        raise ValueError("the loss is not finite")
    assert waits == [1, 1, 1]


def test_rank_0_does_not_wait_for_ranks_that_never_ask(
    launcher: RankLauncher, as_rank: SimpleNamespace
) -> None:
    as_rank.rank = 0
    begin = time.monotonic()
    with pytest.raises(ValueError, match="broken image"), ending_together(launcher, StopSignal()):
        raise ValueError("broken image")
    assert 0.3 <= time.monotonic() - begin < 5


def test_rank_0_does_not_wait_for_ranks_that_it_ends_itself_but_for_those_of_another_node(
    launcher: RankLauncher, as_rank: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank.rank = 0
    waited: list[int] = []
    monkeypatch.setattr(ranks, "_let_the_others_ask", lambda: waited.append(ranks.num_ranks()))
    for number in (2, 4):
        as_rank.store = Store()
        start(launcher, SLEEPS)
        monkeypatch.setattr(ranks, "num_ranks", lambda number=number: number)
        with pytest.raises(ValueError, match="broken image"), ending_together(launcher, StopSignal()):
            raise ValueError("broken image")
        launcher.end()
    assert waited == [4]


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_of_a_ranks_own_is_reported_where_the_store_has_ended(
    launcher: RankLauncher, as_rank: SimpleNamespace, number: int
) -> None:
    """A launcher may hold the store in the place of rank 0."""
    as_rank.rank, as_rank.store = number, Store(gone=True)
    with pytest.raises(ValueError, match="broken image"), ending_together(launcher, StopSignal()):
        raise ValueError("broken image")


def test_a_rank_that_lost_rank_0_ends_in_silence(launcher: RankLauncher, as_rank: SimpleNamespace) -> None:
    as_rank.store = Store(gone=True)
    with pytest.raises(SystemExit), ending_together(launcher, StopSignal()):
        raise LOST


def test_rank_0_says_which_rank_was_killed_where_none_reports(
    launcher: RankLauncher, as_rank: SimpleNamespace
) -> None:
    as_rank.rank = 0
    start(launcher, (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    launcher.procs[0].wait()
    with pytest.raises(ValueError, match="rank 1 of this machine .* was ended by SIGKILL"):  # noqa: SIM117
        with ending_together(launcher, StopSignal()):
            raise LOST


def test_a_rank_that_lost_its_connection_and_is_asked_to_stop_stops(
    launcher: RankLauncher, as_rank: SimpleNamespace
) -> None:
    """torchrun and srun send SIGTERM to the ranks that a failed one has left."""
    stop = StopSignal()
    stop.received = signal.SIGTERM
    with pytest.raises(Stopped) as caught, ending_together(launcher, stop):
        raise LOST
    assert caught.value.code == 143
    with pytest.raises(ValueError, match="broken image"), ending_together(launcher, stop):
        raise ValueError("broken image")


@pytest.mark.parametrize(
    ("variables", "ended"),
    [
        ({}, []),
        ({"LOCAL_RANK": "1", "LIT_CVIT_STARTED_BY": "7"}, [7]),
        ({"LOCAL_RANK": "0", "LIT_CVIT_STARTED_BY": "7"}, []),
        ({"LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}, [os.getppid()]),
        ({"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}, [os.getppid()]),
    ],
)
def test_a_rank_ends_with_the_process_that_started_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ended: list[int]
) -> None:
    """A rank that was started by hand has no such process: its shell may end before it."""
    found: list[int] = []
    monkeypatch.setattr(ranks, "end_with", found.append)
    monkeypatch.setattr(ranks, "end_with_parent", lambda: found.append(os.getppid()))
    for name in ("LOCAL_RANK", "LIT_CVIT_STARTED_BY", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ranks._end_with_launcher(LightningEnvironment())
    assert found == ended


def test_a_programming_error_stays_what_it_is(launcher: RankLauncher, as_rank: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="Connection closed"), ending_together(launcher, StopSignal()):
        raise LOST
