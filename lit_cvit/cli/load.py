"""The way back into a run: its folder's configuration is built again and its method restored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.measured import Measured
from lit_cvit.data.tasks import Task
from lit_cvit.methods import ContinualMethod, ZeroShot
from lit_cvit.run import Change, Conditions, RunFolder, Writer, migrate_config
from lit_cvit.stream.conditions import Reading, conditions_now, require_same
from lit_cvit.stream.preflight import introduce
from lit_cvit.stream.restore import restore_method, restored_stages
from lit_cvit.stream.trainer import ContinualTrainer
from lit_cvit.utils.yaml_file import mapping_in

TasksRead = Callable[[RunFolder, ContinualDataModule, int], Sequence[Task]]
"""Run, data and number of a stage to the tasks of the run whose samples are read after that stage."""


def no_task(run: RunFolder, data: ContinualDataModule, stage: int) -> Sequence[Task]:
    """Nothing is read of the run's own tasks."""
    return ()


@dataclass
class LoadedRun:
    """A run whose objects are built again, with its method as it was after a stage.

    Attributes:
        run: Its folder.
        method: The method as it was after `stage`, in evaluation mode.
        data: Its data module.
        trainer: A trainer configured as the run's was.
        stage: Stage number, from 1; 0 is the backbone before any tuning.
        changes: Conditions that are not those of the run, all of them allowed.
    """

    run: RunFolder
    method: ContinualMethod
    data: ContinualDataModule
    trainer: ContinualTrainer
    stage: int
    changes: tuple[Change, ...] = ()


def load_run(
    path: Path | str,
    *,
    stage: int | None = None,
    measured: Measured | None = None,
    reads: TasksRead = no_task,
    scores: bool = False,
    allowed: Collection[str] = (),
) -> LoadedRun:
    """Load a run's method as it was after a stage, under the conditions that it was trained under.

    Args:
        path: The run folder.
        stage: Stage number; by default the last trained one. 0 is the backbone as it was before any tuning,
            also where the run started from another one.
        measured: What an earlier load has measured of samples, and this one may use and add to.
        reads: Tasks of the run whose data must be what it was.
        scores: Whether their answers are scored, so that scorers and the like must be what they were too.
        allowed: Kinds of changes (`lit_cvit.run.KINDS`) that are wanted.

    Raises:
        ValueError: the folder is no run, the run was started from Python, the stage is not trained, a stored
            file changed (the last stage is then to be named), or a condition of the run did.
    """
    run, method, data, trainer = _rebuilt(path, measured=measured)
    last = max(run.stages_done(), default=0) if stage is None else stage
    if stage is None and run.damage:
        raise ValueError(f"{run.damage}. Copy it again, or name the stage: the last whole one is {last}")
    reading = Reading(reads(run, data, last), scored=scores, benchmark=data.benchmark, tuned=stage != 0)
    now = conditions_now(method, str(trainer.precision), reading)
    found = require_same(run, now, allowed)
    if stage == 0:
        method = ZeroShot(method.backbone)
    _make_ready(method, data)
    done = 0
    if stage != 0:
        state = restore_method(method, run, stage=stage)
        if state is None:
            raise ValueError(f"{run.path} has no trained stage yet")
        done = state.stage
    method.to(trainer.strategy.root_device).eval()
    return LoadedRun(run, method, data, trainer, done, found)


def walk_run(path: Path | str, *, reads: TasksRead = no_task) -> Iterator[LoadedRun]:
    """Load a run's method as it was after each trained stage in turn, with one backbone for all of them.

    It is one method that goes on from stage to stage, so finish with a stage before taking the next.

    Args:
        path: The run folder.
        reads: Tasks of the run whose data must be what it was, after its last stage.

    Raises:
        ValueError: as for `load_run`.
    """
    run, method, data, trainer = _rebuilt(path)
    reading = Reading(reads(run, data, max(run.stages_done(), default=0)), benchmark=data.benchmark)
    require_same(run, conditions_now(method, str(trainer.precision), reading), ())
    _make_ready(method, data)
    for state in restored_stages(method, run):
        method.to(trainer.strategy.root_device).eval()
        yield LoadedRun(run, method, data, trainer, state.stage)


def conditions_of(cli: StreamCLI) -> Conditions | None:
    """What would decide the scores of all tasks of a configuration; None if its backbone is not here yet."""
    method, data, trainer = cli.model, cli.datamodule, cli.trainer
    assert isinstance(method, ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    if not method.backbone.is_here:
        return None
    reading = Reading((*data.stream, *data.downstream), scored=True)
    return conditions_now(method, str(trainer.precision), reading)


def _make_ready(method: ContinualMethod, data: ContinualDataModule) -> None:
    introduce(method, data)
    method.prepare()


def _rebuilt(
    path: Path | str, *, measured: Measured | None = None
) -> tuple[RunFolder, ContinualMethod, ContinualDataModule, ContinualTrainer]:
    """A run's folder, and its objects as they are configured, without any stage and without weights."""
    run = RunFolder.open(path, verify=True)
    config = mapping_in(run.config_path)
    if not config:
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
    return run, method, data, trainer
