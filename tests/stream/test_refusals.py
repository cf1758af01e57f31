"""What cannot walk a stream is refused before training, with the reason and what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import (
    BasePredictionWriter,
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)

from lit_cvit.stream.refusals import Launched, launched, refuse_callbacks
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "29400"}
PAIR = {**TORCHRUN, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


class Validates(Callback):
    """Acts in a loop that a stream has not."""

    def on_validation_end(self, *_: Any) -> None: ...


class Both(Callback):
    """Acts while training too."""

    def on_validation_end(self, *_: Any) -> None: ...

    def on_train_batch_end(self, *_: Any) -> None: ...


class Hidden(ModelCheckpoint):
    """A subclass is refused as its base is."""


@pytest.mark.parametrize(
    ("callback", "parts"),
    [
        (EarlyStopping("loss/lm"), ("EarlyStopping", "loss/lm", "data.epochs")),
        (EarlyStopping("nothing"), ("EarlyStopping", "loss/lm", "data.epochs")),
        (ModelCheckpoint(), ("ModelCheckpoint", "trainer.checkpoint_every_n_steps")),
        (Hidden(), ("Hidden", "trainer.checkpoint_every_n_steps")),
        (Timer("00:01:00:00"), ("Timer", "data.epochs")),
        (Validates(), ("Validates", "on_validation_end", "on_stage_saved")),
        (BasePredictionWriter(), ("BasePredictionWriter", "on_predict_batch_end", "on_stage_saved")),
    ],
)
def test_a_callback_that_cannot_work_in_a_stream_is_refused_with_the_reason(
    tmp_path: Path, callback: Callback, parts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"^trainer\.callbacks: ") as raised:
        ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", callbacks=[callback])
    assert all(part in str(raised.value) for part in parts), raised.value


def test_callbacks_that_work_in_a_stream_are_taken() -> None:
    taken = [Both(), StageCallback(), LearningRateMonitor(), LambdaCallback()]
    refuse_callbacks(taken, has_logger=True)


@pytest.mark.parametrize("callback", [LearningRateMonitor(), DeviceStatsMonitor()])
def test_a_callback_that_writes_to_a_logger_is_refused_without_one(
    tmp_path: Path, callback: Callback
) -> None:
    name = type(callback).__name__
    with pytest.raises(ValueError, match=rf"^trainer\.callbacks: {name} .* set trainer\.logger"):
        ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", callbacks=[callback])
    refuse_callbacks(callback, has_logger=True)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, None),
        ({**TORCHRUN, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Launched("torchrun", 8, 2)),
        ({"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}, Launched("srun", 6, 3)),
        # A batch script of four tasks without srun, and a shell that srun started for one task.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None),
        # Kubernetes and their like.
        ({"RANK": "1", "WORLD_SIZE": "4"}, Launched("a launcher (RANK, WORLD_SIZE)", 4, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
    ],
)
def test_what_a_launcher_started_is_read_from_its_variables(
    environment: dict[str, str], found: Launched | None
) -> None:
    assert launched(environment) == found


@pytest.mark.parametrize(
    ("environment", "settings", "advice"),
    [
        (PAIR, {}, "Add --trainer.devices 2,"),
        (
            PAIR,
            {"devices": 4},
            "Add --trainer.devices 2,",
        ),
        (PAIR, {"devices": "1"}, "--trainer.devices 2,"),
        (
            {**TORCHRUN, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
            {"devices": 2},
            "Add --trainer.devices 2 --trainer.num_nodes 2,",
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, {}, "srun started 2 process(es)"),
    ],
)
def test_processes_that_would_train_by_themselves_are_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    settings: dict[str, Any],
    advice: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"trainer\.devices") as raised:
        ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", **settings)
    assert advice in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("LOCAL_WORLD_SIZE", ""), ("LOCAL_WORLD_SIZE", None)],
)
def test_variables_that_say_no_number_of_processes_are_named(variable: str, value: str | None) -> None:
    environment = {name: text for name, text in (PAIR | {variable: value}).items() if text is not None}
    shown = "not set" if value is None else repr(value)
    with pytest.raises(ValueError, match=f"variable {variable} is {shown}, not a number"):
        launched(environment)


def test_processes_of_mpirun_are_refused_with_another_way_to_start_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="mpirun started 2 processes.*torchrun --nproc_per_node 2"):
        ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", devices=2, strategy="ddp")


def test_as_many_devices_as_were_launched_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in PAIR.items():
        monkeypatch.setenv(name, value)
    trainer = ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", devices=2, strategy="ddp")
    assert trainer.world_size == 2
