"""StageCallback: the base of callbacks that act when a stage of the stream begins or ends."""

from __future__ import annotations

from typing import Any, Protocol

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder
from lit_cvit.utils.renamed import refuse_old_hooks
from lit_cvit.utils.settings import CheckedSettings


class StreamTrainer(Protocol):
    """What a stage callback may use of the trainer, a `ContinualTrainer`.

    Attributes:
        callbacks: All callbacks, in the order in which their hooks run.
        loggers: Lightning's loggers, beside the run's own log.
        stages: The stages of the stream.
        memory_plan: Lines of the memory plan, for the header of the run.
        strategy: Lightning's; its `root_device` and `barrier` are what callbacks need.
        precision_plugin: Lightning's; makes the context to generate in.
    """

    callbacks: list[Callback]
    stages: tuple[Stage, ...]
    memory_plan: list[str]

    @property
    def loggers(self) -> list[Logger]: ...

    @property
    def strategy(self) -> Strategy: ...

    @property
    def precision_plugin(self) -> Any: ...

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        ...

    @property
    def data(self) -> ContinualDataModule:
        """The data module that is fitted on."""
        ...

    @property
    def global_step(self) -> int:
        """Optimizer steps since the stream began."""
        ...

    @property
    def callback_metrics(self) -> Any:
        """What the method and callbacks have logged, by name."""
        ...

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes."""
        ...

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        ...

    def access(self, method: ContinualMethod) -> DataAccess:
        """The data access of a method in this run, grants of callbacks included."""
        ...

    def check_stop(self) -> None:
        """Stop here if a signal was received on any rank; all ranks must call it at the same point."""
        ...


# Names that hooks had before, and those they have now.
RENAMED = {"lets_know": "grants"}


class StageCallback(CheckedSettings, Callback):
    """A Lightning callback with hooks of the stream, of its stages, and of optimizer steps.

    What happens once per optimizer step belongs into `on_step_end`; the order of a step is that of
    `lit_cvit.stream.step_order`. Settings are checked against the type hints of the constructor
    (`lit_cvit.utils.settings`) before it runs.
    """

    def __init__(self) -> None:
        super().__init__()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old_hooks(cls, RENAMED)

    @property
    def grants(self) -> tuple[str, ...]:
        """What any method beside this callback learns from: names of fields of `DataAccess`.

        It is printed and recorded with what the method says of itself. What is hidden of a sample follows
        from the method alone.
        """
        return ()

    def planned_rows(self, stage: Stage) -> int:
        """How many rows the callback will add to a later stage's data, at most; for estimates alone."""
        return 0

    def before_loading(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        """Before the model's weights are read; the run folder exists."""

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        """Before the first stage (on resume: before the next one); the run folder exists."""

    def on_stage_start(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        """The model has grown for the stage; loader, optimizer and schedule are not yet built."""

    def on_step_end(self, trainer: StreamTrainer, method: ContinualMethod, step: int) -> None:
        """The optimizer has stepped and the schedule moved on; on every rank, after `method.on_update`.

        Args:
            trainer: The trainer.
            method: The method.
            step: Optimizer step of the stream, from 0; the row of the log has the same number.
        """

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        """Training of the stage is over and `method.end_stage` was called; the stage is not yet saved."""

    def on_stage_saved(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        """The stage is saved and counts as trained; called again on resume until it is evaluated."""

    def on_stream_end(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        """After the last stage is evaluated."""
