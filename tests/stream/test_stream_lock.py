"""A fit locks its run folder; a second process that would write it is refused before it changes anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from stream_kit import KillAt, Killed, fit, log_rows, small_data, small_method

from lit_cvit.run import LockLost, RunFolder, RunInUse, RunLock, lock
from lit_cvit.run.lock import Holder
from lit_cvit.stream.stage_callback import StageCallback

SMALL: dict[str, Any] = {"tasks": ["GQA"], "settings": {"num_train": 48, "num_test": 2}}
NAME = "seqlora-cvit-mini"


class AtStep(StageCallback):
    """Does something after an optimizer step of the stream."""

    def __init__(self, step: int, action: Callable[[Path], None]) -> None:
        super().__init__()
        self.at, self.action = step, action

    def on_step_end(self, trainer: Any, method: Any, step: int) -> None:
        if step == self.at:
            self.action(trainer.run.path)


def require_locked(path: Path) -> None:
    with pytest.raises(RunInUse, match=f"process {os.getpid()} "):
        RunLock.acquire(path)


def terminate(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lock_as_another(path: Path) -> None:
    """Put the lock of another living process in place, this one's parent."""
    parent = os.getppid()
    other = replace(Holder.this_process(), process=parent, started=lock._state(parent)[1])
    (path / ".lock").write_text(json.dumps(asdict(other)))


def contents(path: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


@pytest.fixture(scope="module")
def killed(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its second step of three, with a checkpoint at the first."""
    root = tmp_path_factory.mktemp("killed")
    settings: dict[str, Any] = {"callbacks": [KillAt(2)], "checkpoint_every_n_steps": 1}
    with pytest.raises(Killed):
        fit(root, small_method(llava_folder), small_data(**SMALL), **settings)
    assert not (root / NAME / ".lock").exists()
    return root / NAME


def test_a_run_is_locked_while_it_is_written_and_free_afterwards(llava_folder: Path, tmp_path: Path) -> None:
    trainer = fit(
        tmp_path, small_method(llava_folder), small_data(**SMALL), callbacks=[AtStep(1, require_locked)]
    )
    assert not list(trainer.run.path.glob(".lock*"))


def test_a_run_that_sigterm_stopped_is_free(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, small_method(llava_folder), small_data(**SMALL), callbacks=[AtStep(0, terminate)])
    assert not list((tmp_path / NAME).glob(".lock*"))


def test_a_resume_of_a_run_in_use_is_refused_and_changes_nothing(
    llava_folder: Path, tmp_path: Path, killed: Path
) -> None:
    path = Path(shutil.copytree(killed, tmp_path / NAME))
    (path / ".log.jsonl.tmp").touch()
    lock_as_another(path)
    before = contents(path)
    with pytest.raises(RunInUse, match=rf"{path} is in use by process {os.getppid()} "):
        fit(tmp_path, small_method(llava_folder), small_data(**SMALL), callbacks=[], ckpt_path="last")
    assert contents(path) == before
    (path / ".lock").unlink()
    again = fit(tmp_path, small_method(llava_folder), small_data(**SMALL), callbacks=[], ckpt_path="last")
    assert [row["step"] for row in log_rows(again.run)] == [0, 1, 2]


def test_a_resume_that_is_refused_for_its_conditions_leaves_no_lock(
    llava_folder: Path, tmp_path: Path, killed: Path
) -> None:
    path = Path(shutil.copytree(killed, tmp_path / NAME))
    before = contents(path)
    with pytest.raises(ValueError, match="the seed was 0, now it is 1"):
        fit(
            tmp_path,
            small_method(llava_folder),
            small_data(**SMALL),
            callbacks=[],
            ckpt_path="last",
            seed=1,
        )
    assert contents(path) == before


def test_a_run_that_was_taken_over_ends_at_its_next_write(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_TRUSTED", -1.0)
    with pytest.raises(LockLost, match=f"taken over by process {os.getppid()} "):
        fit(tmp_path, small_method(llava_folder), small_data(**SMALL), callbacks=[AtStep(0, lock_as_another)])
    run = RunFolder.open(tmp_path / NAME)
    assert len(log_rows(run)) <= 1
    assert run.stages_done() == []
    assert (run.path / ".lock").exists()
