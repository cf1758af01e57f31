"""Which process makes which cell when: claims, cells that wait for others, failures, and a stop."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_cells
import pytest
from rich.console import Console
from sweep_kit import sweep_of

from lit_cvit.sweep import Sweep, Sweeper, running
from lit_cvit.sweep.checking import Checked
from lit_cvit.sweep.claims import claimed, is_claimed
from lit_cvit.sweep.progress import Progress
from lit_cvit.sweep.states import failure


@pytest.fixture(autouse=True)
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("make", "is_done", "has_evaluated"):
        monkeypatch.setattr(running, name, getattr(fake_cells, name))
    monkeypatch.setattr(running, "_LOOK", 0.1)


def swept(cells: dict[str, Any], processes: int = 1, **values: Any) -> tuple[Sweep, list[Checked], Sweeper]:
    sweep = sweep_of(cells=cells, **values)
    checked = [Checked(cell, {}, "00") for cell in sweep.cells]
    sweep.run_root.mkdir(parents=True, exist_ok=True)
    progress = Progress(sweep, checked, Console(file=io.StringIO()))
    return sweep, checked, Sweeper(sweep, checked, processes, progress)


def made(sweep: Sweep) -> list[str]:
    path = sweep.run_root / "made.txt"
    return path.read_text().split() if path.is_file() else []


def later(done: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Acts once something has come true."""

    def wait() -> None:
        for _ in range(600):
            if done():
                return act()
            time.sleep(0.05)
        raise AssertionError("it did not come true")

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_cells_are_made_in_order_and_finished_ones_are_left_alone() -> None:
    sweep, checked, sweeper = swept({"A": "", "B": "", "C": ""})
    fake_cells.finish(sweep, checked[1])
    assert sweeper.run()
    assert made(sweep) == ["A-0", "C-0"]
    assert not any(is_claimed(sweep.folder(cell)) for cell in sweep.cells)


def test_a_cell_that_another_living_process_has_is_left_to_it() -> None:
    sweep, checked, sweeper = swept({"A": "", "B": ""})
    with claimed(sweep.folder(checked[0].cell)) as mine:
        assert mine
        with claimed(sweep.folder(checked[0].cell)) as again:
            assert not again
        assert sweeper.run()
    assert made(sweep) == ["B-0"]


def test_a_cell_waits_for_the_one_it_starts_from_in_another_process() -> None:
    sweep, checked, sweeper = swept({"A": "", "few": {"start_from": "A"}, "B": ""})
    with claimed(sweep.folder(checked[0].cell)):
        thread = later(lambda: made(sweep) == ["B-0"], lambda: fake_cells.finish(sweep, checked[0]))
        assert sweeper.run()
        thread.join()
    assert made(sweep) == ["B-0", "few-0"]


def test_a_failed_cell_stops_those_that_start_from_it_and_no_other() -> None:
    sweep, checked, sweeper = swept({"fails": "", "few": {"start_from": "fails"}, "B": ""}, processes=2)
    assert not sweeper.run()
    assert sorted(made(sweep)) == ["B-0", "fails-0"]
    reasons = [failure(sweep.failure_path(each.cell)) for each in checked]
    assert [each.reason if each else None for each in reasons] == [
        "last words of fails-0 (status 1)",
        "it starts from fails-0, which failed",
        None,
    ]
    # The next call tries it again.
    _, _, again = swept({"fails": "", "B": ""})
    assert not again.run()
    assert made(sweep).count("fails-0") == 2


def test_a_cell_whose_source_is_not_finished_and_not_chosen_is_refused() -> None:
    sweep, checked, _ = swept({"A": "", "few": {"start_from": "A"}})
    progress = Progress(sweep, checked, Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="few-0 starts from A-0, which is not finished.*--only"):
        Sweeper(sweep, checked[1:], 1, progress).run()


def test_a_stop_lets_cells_write_a_checkpoint_and_is_handed_on() -> None:
    sweep, _, sweeper = swept({"waits": "", "B": ""})
    before = signal.getsignal(signal.SIGTERM)
    thread = later((sweep.run_root / "waiting").is_file, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stopped:
        sweeper.run()
    thread.join()
    assert stopped.value.code == 143
    assert (sweep.run_root / "waits-0.checkpoint").is_file()
    assert made(sweep) == ["waits-0"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_several_cells_side_by_side_have_one_thread_each_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert running.environment(2)["OMP_NUM_THREADS"] == "1"
    assert running.environment(1) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in running.environment(2)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-9, "killed by SIGKILL (out of memory?)"),
        (-11, "killed by SIGSEGV"),
        (143, "stopped by SIGTERM; the next call goes on"),
        (1, "RuntimeError: no luck (status 1)"),
        (0, "its run ended without scores of all stages"),
    ],
)
def test_a_failure_has_a_reason_in_one_line(tmp_path: Path, status: int, reason: str) -> None:
    log = tmp_path / "log.txt"
    log.write_text("stage 1/2\nTraceback\nRuntimeError: no luck\n\n")
    assert running._reason(status, log) == reason
    assert running._reason(2, tmp_path / "none") == "it printed nothing (status 2)"
