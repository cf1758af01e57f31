"""Settings of Lightning's trainer that cannot walk a stream: refused before training, with the reason."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from lit_cvit.utils.suggest import unknown

_PRECISIONS = (None, "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")
_STEPS = "every stage trains the steps that were planned for it; set data.epochs"
_WEIGHTS = "the method alone decides what trains, and all else is proven unchanged"
_UNFIT: Mapping[type[Callback], str] = {
    EarlyStopping: f"it would end a stage early by a logged value such as loss/lm, and {_STEPS}",
    Timer: f"it would end a stage early, and {_STEPS}",
    Checkpoint: "the run folder keeps every stage; trainer.checkpoint_every_n_steps is for steps within one",
    GradientAccumulationScheduler: "accumulation follows from data.global_batch_size and data.batch_size",
    BatchSizeFinder: "it needs a fit of its own; set data.batch_size, and see what `plan` says",
    LearningRateFinder: "it needs a fit of its own; set model.optimizer.learning_rate",
    BaseFinetuning: _WEIGHTS,
    ModelPruning: _WEIGHTS,
    StochasticWeightAveraging: f"it exchanges the weights when a fit ends, which is every stage; {_WEIGHTS}",
    # Lightning 2.5 does not have it.
    **{
        kind: f"it exchanges the weights when a fit ends, which is every stage; {_WEIGHTS}"
        for name, kind in vars(of_lightning).items()
        if name == "WeightAveraging"
    },
}
_NEED_A_LOGGER = (LearningRateMonitor, DeviceStatsMonitor)
_KEEP_STAGES = ("all", "last")
_OTHER_LOOPS = ("on_validation", "on_sanity", "on_test", "on_predict")


def refuse_negative(**settings: float | None) -> None:
    """Refuse settings of the trainer below 0, some of which Lightning would take for none.

    Args:
        settings: Values by name; None is fine.

    Raises:
        ValueError: one is below 0; names it.
    """
    for name, value in settings.items():
        if value is not None and value < 0:
            raise ValueError(f"trainer.{name} must be 0 or more, got {value}")


def refuse_settings(devices: object, logger: object, keep_stages: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings before Lightning's trainer reads them, which would say it in other words.

    Args:
        devices: `trainer.devices` as configured.
        logger: `trainer.logger` as configured.
        keep_stages: `trainer.keep_stages` as configured.
        settings: The trainer's settings, as configured.

    Raises:
        ValueError: a precision, a callback or a number of devices has no place in a stream, or `keep_stages`
            has an unknown value.
    """
    if keep_stages not in _KEEP_STAGES:
        raise ValueError(f"trainer.keep_stages: {unknown('value', keep_stages, _KEEP_STAGES)}")
    refuse_precision(settings.get("precision"))
    refuse_callbacks(settings.get("callbacks"), has_logger=bool(logger))
    if isinstance(devices, int) and devices > 0:
        refuse_launcher(devices, settings.get("num_nodes", 1))


def refuse_callbacks(callbacks: Sequence[Callback] | Callback | None, *, has_logger: bool) -> None:
    """Refuse Lightning's callbacks that would change the plan of a stream, or never do anything in one.

    Args:
        callbacks: `trainer.callbacks` as configured.
        has_logger: Whether there is a logger beside the run's own log.

    Raises:
        ValueError: there is such a callback; says why it cannot work.
    """
    for callback in [callbacks] if isinstance(callbacks, Callback) else callbacks or ():
        name = type(callback).__name__
        for unfit, reason in _UNFIT.items():
            if isinstance(callback, unfit):
                raise ValueError(f"trainer.callbacks: {name} cannot work in a stream: {reason}")
        if isinstance(callback, _NEED_A_LOGGER) and not has_logger:
            raise ValueError(
                f"trainer.callbacks: {name} needs a logger to write to; set trainer.logger (CSVLogger "
                "needs no further package), or leave it out: log.jsonl has rates and times of every step"
            )
        own = [
            hook
            for hook in vars(Callback)
            if hook.startswith("on_") and getattr(type(callback), hook) is not getattr(Callback, hook)
        ]
        if own and all(hook.startswith(_OTHER_LOOPS) for hook in own):
            raise ValueError(
                f"trainer.callbacks: {name} would do nothing: a stream has no loop that calls "
                f"{', '.join(own)}; scores are taken after each stage, so use StageCallback.on_stage_saved"
            )


class Launched(NamedTuple):
    """Processes that a launcher has started.

    Attributes:
        by: The launcher.
        processes: How many there are.
        nodes: On how many machines.
    """

    by: str
    processes: int
    nodes: int


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """What the launcher of this process started, as its variables say; None where there is no launcher.

    Raises:
        ValueError: a variable is no number, or missing; names it.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        processes = _number(environment, "WORLD_SIZE")
        return Launched("torchrun", processes, processes // _number(environment, "LOCAL_WORLD_SIZE"))
    # Of the step, not of the job: a batch script without srun runs once, and so does an interactive shell,
    # whose one process may start the others.
    processes = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if processes > 1:
        return Launched("srun", processes, _number(environment, "SLURM_STEP_NUM_NODES", 1))
    # Lightning sets no RANK for the processes that it starts itself.
    processes = _number(environment, "WORLD_SIZE", 1) if "RANK" in environment else 1
    each = _number(environment, "LOCAL_WORLD_SIZE", 1)
    return Launched("a launcher (RANK, WORLD_SIZE)", processes, processes // each) if processes > 1 else None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not (text.isdecimal() and int(text)):
        what = repr(text) if name in environment else "not set"
        raise ValueError(f"the launcher's variable {name} is {what}, not a number of processes; start again")
    return int(text)


def refuse_mpi(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse processes that mpirun started.

    Raises:
        ValueError: it started several.
    """
    processes = _number(environment, "OMPI_COMM_WORLD_SIZE", 1)
    if processes > 1:
        raise ValueError(
            f"mpirun started {processes} processes, each of which would train the whole stream by itself; "
            f"start them with torchrun --nproc_per_node {processes}, or start one with --trainer.devices "
            f"{processes} --trainer.strategy ddp"
        )


def refuse_launcher(num_devices: int, num_nodes: int) -> None:
    """Refuse processes that would not train together: each would train the whole stream by itself.

    Args:
        num_devices: Processes on each machine, as configured.
        num_nodes: Machines, as configured.

    Raises:
        ValueError: the launcher started other processes; says what to add to the command.
    """
    refuse_mpi()
    found = launched()
    if found is None or found.processes == num_devices * num_nodes:
        return
    each = found.processes // found.nodes
    nodes = f" --trainer.num_nodes {found.nodes}" if found.nodes > 1 or num_nodes > 1 else ""
    raise ValueError(
        f"{found.by} started {found.processes} process(es) on {found.nodes} node(s), but trainer.devices and "
        f"trainer.num_nodes stand for {num_devices} x {num_nodes}. Add --trainer.devices {each}{nodes}, or "
        f"start {num_devices} on each of {num_nodes} node(s)"
    )


def refuse_precision(precision: object) -> None:
    """Refuse a precision that would convert the frozen model.

    Raises:
        ValueError: it would.
    """
    if (None if precision is None else str(precision)) not in _PRECISIONS:
        raise ValueError(
            f"trainer.precision {precision!r} would convert the frozen model and the adapters alike; allowed "
            f"are {', '.join(str(p) for p in _PRECISIONS if p)}. For a 16-bit model set model.backbone.dtype"
        )


def refuse_strategy(strategy: Strategy, asked: str | Strategy) -> None:
    """Refuse a strategy that cannot fit more than once in a process.

    Args:
        strategy: What the trainer uses.
        asked: What was configured.

    Raises:
        ValueError: it cannot.
    """
    by_command = isinstance(strategy, DDPStrategy) and strategy._start_method == "popen"
    if not (by_command or isinstance(strategy, SingleDeviceStrategy)):
        name = asked if isinstance(asked, str) else type(asked).__name__
        raise ValueError(
            f"trainer.strategy {name!r} cannot walk a stream; allowed are 'auto', 'ddp' and "
            "'ddp_sharded_backbone' (processes started by command, torchrun or SLURM)"
        )
