"""The way back into a run: its folder's configuration is built again and its method restored."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.measured import Measured
from lit_cvit.methods import ContinualMethod, ZeroShot
from lit_cvit.run import RunFolder, Writer, migrate_config
from lit_cvit.stream.preflight import introduce
from lit_cvit.stream.restore import restore_method, restored_stages
from lit_cvit.stream.trainer import ContinualTrainer


@dataclass
class LoadedRun:
    """A run whose objects are built again, with its method as it was after a stage.

    Attributes:
        run: Its folder.
        method: The method as it was after `stage`, in evaluation mode.
        data: Its data module.
        trainer: A trainer configured as the run's was.
        stage: Stage number, from 1; 0 is the backbone before any tuning.
    """

    run: RunFolder
    method: ContinualMethod
    data: ContinualDataModule
    trainer: ContinualTrainer
    stage: int


def load_run(path: Path | str, *, stage: int | None = None, measured: Measured | None = None) -> LoadedRun:
    """Load a run's method as it was after a stage.

    Args:
        path: The run folder.
        stage: Stage number; by default the last trained one. 0 is the backbone as it was before any tuning,
            also where the run started from another one.
        measured: What an earlier load has measured of samples, and this one may use and add to.

    Raises:
        ValueError: the folder is no run, the run was started from Python, the stage is not trained, or a
            stored file changed.
    """
    run, method, data, trainer = _rebuilt(path, untuned=stage == 0, measured=measured)
    if stage == 0:
        method.to(trainer.strategy.root_device).eval()
        return LoadedRun(run, method, data, trainer, 0)
    state = restore_method(method, run, stage=stage)
    if state is None:
        raise ValueError(f"{run.path} has no trained stage yet")
    method.to(trainer.strategy.root_device).eval()
    return LoadedRun(run, method, data, trainer, state.stage)


def walk_run(path: Path | str) -> Iterator[LoadedRun]:
    """Load a run's method as it was after each trained stage in turn, with one backbone for all of them.

    It is one method that goes on from stage to stage, so finish with a stage before taking the next.

    Args:
        path: The run folder.

    Raises:
        ValueError: as for `load_run`.
    """
    run, method, data, trainer = _rebuilt(path)
    for state in restored_stages(method, run):
        method.to(trainer.strategy.root_device).eval()
        yield LoadedRun(run, method, data, trainer, state.stage)


def _rebuilt(
    path: Path | str, *, untuned: bool = False, measured: Measured | None = None
) -> tuple[RunFolder, ContinualMethod, ContinualDataModule, ContinualTrainer]:
    """A run's folder, and its objects as they are configured, without any stage; `untuned` without method."""
    run = RunFolder.open(path, verify=True)
    config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    if config is None:
        raise ValueError(
            f"{run.path} was started from Python and has no configuration to build its method and data from, "
            "so the verbs cannot reopen it. Build both again in Python and call "
            "lit_cvit.stream.restore.restore_method, or train with `python -m lit_cvit fit`"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / run.config_path.name
        path.write_text(yaml.safe_dump(migrate_config(config, schema=run.record.schema)), encoding="utf-8")
        cli = StreamCLI(["--config", str(path)], run=False)
    method, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(method, ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    assert isinstance(trainer, ContinualTrainer)
    data.measured = measured or data.measured
    # What the run has measured is read, but a verb leaves the run as it is.
    data.measured.keep_in(RunFolder(run.path, run.record, Writer(enabled=False)))
    if untuned:
        method = ZeroShot(method.backbone)
    introduce(method, data)
    method.prepare()
    return run, method, data, trainer
