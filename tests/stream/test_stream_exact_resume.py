"""A run that is cut off inside a stage goes on at its checkpoint and ends where the whole run does."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import stream_kit
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import (
    QUICK,
    KillAt,
    Killed,
    Trail,
    fit,
    fragile_method,
    log_rows,
    quick_data,
    scoring,
    state_files,
)

from callbacks import StageEvaluation
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import ContinualMethod
from lit_cvit.run import RunFolder, writer
from lit_cvit.stream.checkpoints import Stopped, checkpoint_step

pytestmark = pytest.mark.processes

# Two stages of 2 epochs of 2 steps.
EPOCHS, STEPS = 2, 4
DATA: dict[str, dict[str, Any]] = {
    "plain": {},
    "workers": {"num_workers": 2},
    "accumulation": {"batch_size": QUICK // 2, "global_batch_size": QUICK},
    "small answers": {"eval_batch_size": 2},
}


def data(kind: str) -> ContinualDataModule:
    return quick_data(epochs=EPOCHS, **DATA[kind])


def method(folder: Path) -> ContinualMethod:
    return fragile_method(folder, decay=0.1)


class Terminate(Callback):
    """Sends a signal to this process in the middle of a step."""

    def __init__(self, step: int, *signums: int) -> None:
        super().__init__()
        self.step, self.signums = step, signums

    def on_before_zero_grad(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            for signum in self.signums:
                os.kill(os.getpid(), signum)


class Interrupted(StageEvaluation):
    """Ends the process, or asks it to end, after a number of answers at the second stage."""

    def __init__(self, answers: int, signum: int = 0) -> None:
        super().__init__(downstream=False)
        self.at, self.signum = answers, signum

    def _count(self, num_answered: int) -> None:
        super()._count(num_answered)
        if self.asked == 10 and self.answered == self.at:
            if not self.signum:
                raise Killed
            os.kill(os.getpid(), self.signum)


class Made:
    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.whole = cache(self._whole)

    def _whole(self, kind: str) -> RunFolder:
        return fit(self.root / kind, method(self.folder), data(kind)).run


@pytest.fixture(scope="module")
def made(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(llava_folder, tmp_path_factory.mktemp("whole"))


def run_in(root: Path) -> RunFolder:
    return RunFolder.open(root / "smolora-cvit-mini")


# Step 2 ends epoch 1 of stage 1, 4 the stage; 5 and 7 are inside stage 2. Step 1, inside an epoch, is below.
@pytest.mark.parametrize(
    ("kind", "step", "stored"), [("workers", 2, 1), ("accumulation", 5, 5), ("plain", 7, 7)]
)
def test_a_run_killed_inside_a_stage_ends_bit_identical(
    llava_folder: Path, tmp_path: Path, made: Made, kind: str, step: int, stored: int
) -> None:
    with pytest.raises(Killed):
        fit(
            tmp_path,
            method(llava_folder),
            data(kind),
            callbacks=[KillAt(step), scoring()],
            checkpoint_every_n_steps=1,
        )
    stage = step // STEPS + 1
    assert checkpoint_step(run_in(tmp_path), stage) == stored
    trail = Trail()
    again = fit(
        tmp_path,
        method(llava_folder),
        data(kind),
        callbacks=[trail, scoring()],
        checkpoint_every_n_steps=1,
        ckpt_path="last",
    )
    assert sum(map(len, trail.rates)) == 2 * STEPS - stored
    assert state_files(again.run) == state_files(made.whole(kind))
    assert log_rows(again.run) == log_rows(made.whole(kind))
    assert not again.run.checkpoint_path.exists()


@pytest.mark.compat
def test_a_run_killed_twice_inside_a_stage_ends_bit_identical(
    llava_folder: Path, tmp_path: Path, made: Made
) -> None:
    for step in (1, 3):
        with pytest.raises(Killed):
            fit(
                tmp_path,
                method(llava_folder),
                data("plain"),
                callbacks=[KillAt(step), scoring()],
                checkpoint_every_n_steps=1,
                ckpt_path="last" if step > 1 else None,
            )
    again = fit(tmp_path, method(llava_folder), data("plain"), ckpt_path="last")
    assert state_files(again.run) == state_files(made.whole("plain"))


def test_sigterm_or_an_interrupt_writes_a_checkpoint_and_ends_with_its_status(
    llava_folder: Path, tmp_path: Path, made: Made
) -> None:
    """One after the other in one run, which then ends as if neither had come."""
    for signum, status, step, ckpt_path in ((signal.SIGINT, 130, 2, None), (signal.SIGTERM, 143, 6, "last")):
        before, callbacks = signal.getsignal(signum), [Terminate(step, signum), scoring()]
        with pytest.raises(Stopped) as stopped:
            fit(
                tmp_path,
                method(llava_folder),
                data("accumulation"),
                callbacks=callbacks,
                ckpt_path=ckpt_path,
            )
        assert stopped.value.code == status
        assert signal.getsignal(signum) is before
        assert checkpoint_step(run_in(tmp_path), step // STEPS + 1) == step + 1
    again = fit(tmp_path, method(llava_folder), data("accumulation"), ckpt_path="last")
    assert state_files(again.run) == state_files(made.whole("accumulation"))


def test_a_second_interrupt_stops_at_once(llava_folder: Path, tmp_path: Path) -> None:
    twice = Terminate(2, signal.SIGINT, signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        fit(tmp_path, method(llava_folder), data("plain"), callbacks=[twice, scoring()])
    assert not isinstance(stopped.value, Stopped)
    assert not run_in(tmp_path).checkpoint_path.exists()


@pytest.mark.parametrize("signum", [0, signal.SIGTERM])
def test_an_evaluation_goes_on_at_the_batch_it_had_reached(
    llava_folder: Path, tmp_path: Path, made: Made, signum: int, split_sizes: list[int]
) -> None:
    with pytest.raises(Stopped if signum else Killed):
        fit(
            tmp_path,
            method(llava_folder),
            data("small answers"),
            callbacks=[Interrupted(7, signum)],
        )
    stored = [len(run_in(tmp_path).journal(2, task).rounds()) for task in ("ScienceQA", "GQA")]
    assert stored == [3, 1]
    assert split_sizes == [5, 5]
    resumed, asked = method(llava_folder), []
    generate = resumed.generate

    def counted(batch: Any, **settings: Any) -> list[str]:
        asked.append(len(batch))
        return generate(batch, **settings)

    resumed.generate = counted  # type: ignore[method-assign]
    again = fit(tmp_path, resumed, data("small answers"), ckpt_path="last")
    assert asked == [2, 1]
    assert split_sizes == [5, 5], "a resumed run measures nothing again"
    assert not again.run.journal(2, "GQA").path.exists()
    assert state_files(again.run) == state_files(made.whole("small answers"))


def test_a_damaged_checkpoint_costs_only_the_stage(
    llava_folder: Path, tmp_path: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        fit(
            tmp_path,
            method(llava_folder),
            data("plain"),
            callbacks=[KillAt(7), scoring()],
            checkpoint_every_n_steps=1,
        )
    path = run_in(tmp_path).checkpoint_path
    path.write_bytes(path.read_bytes()[:-1000])
    again = fit(tmp_path, method(llava_folder), data("plain"), ckpt_path="last")
    assert "stage 2 starts again" in caplog.text
    assert state_files(again.run) == state_files(made.whole("plain"))


@pytest.mark.compat
def test_a_checkpoint_holds_only_what_trains_and_plain_state(llava_folder: Path, tmp_path: Path) -> None:
    learned = method(llava_folder)
    with pytest.raises(Killed):
        fit(
            tmp_path,
            learned,
            data("plain"),
            callbacks=[KillAt(3), scoring()],
            checkpoint_every_n_steps=1,
        )
    checkpoint = torch.load(run_in(tmp_path).checkpoint_path, weights_only=True)
    assert checkpoint["state_dict"].keys() == learned.tensors().keys()
    moments = sum(len(state) for state in checkpoint["optimizer_states"][0]["state"].values())
    trained = [p for p in learned.parameters() if p.requires_grad]
    # Step and two moments of every tensor that a step has reached.
    assert 0 < moments <= 3 * len(trained)


def test_without_an_interval_no_checkpoint_is_written(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(
            tmp_path,
            method(llava_folder),
            data("plain"),
            callbacks=[KillAt(3)],
            checkpoint_every_n_steps=0,
        )
    assert not run_in(tmp_path).checkpoint_path.exists()


class Fault:
    """Ends the process at one of the events of the run's writes; counts them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.events = at, list[str]()

    def __call__(self, event: str, path: Path) -> None:
        self.events.append(f"{event} {path.name}")
        if len(self.events) - 1 == self.at:
            raise Killed


def test_a_run_killed_at_any_of_its_writes_ends_bit_identical(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of the events, one for every kind of file; `tests/run` takes every event of a smaller run."""

    def fitted(root: Path, fault: Fault, ckpt_path: str | None = None) -> RunFolder:
        monkeypatch.setattr(writer, "_no_fault", fault)
        return fit(root, method(llava_folder), ckpt_path=ckpt_path, checkpoint_every_n_steps=1).run

    # Drawing takes longer than all the rest; what is written is a file all the same.
    monkeypatch.setattr("lit_cvit.report.write.matrix_figure", lambda *_, **__: None)
    monkeypatch.setattr("lit_cvit.report.write.png", lambda _: b"drawn")
    counting = Fault(None)
    monkeypatch.setattr(stream_kit, "scoring", lambda: StageEvaluation(downstream=False))
    whole = fitted(tmp_path / "whole", counting)
    # What is measured has a digest in its name; one of a kind will do.
    kinds = {event.partition("-")[0]: n for n, event in enumerate(counting.events) if "middle" in event}
    assert {name.split()[1] for name in kinds} >= {
        "last.ckpt", "log.jsonl", "method.safetensors", "manifest.json", "scores.json", "ScienceQA.jsonl",
        "run.json", "matrix.json", "summary.md", "matrix.png",
    }  # fmt: skip
    for number in sorted(kinds.values())[::4]:
        root = tmp_path / str(number)
        with pytest.raises(Killed):
            fitted(root, Fault(number))
        again = fitted(root, Fault(None), "last")
        assert state_files(again) == state_files(whole), counting.events[number]
        assert log_rows(again) == log_rows(whole), counting.events[number]
