"""StageCallback: the base of callbacks that act when a stage of the stream begins or ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lit_cvit.data.stage import Stage
    from lit_cvit.methods.base import ContinualMethod
    from lit_cvit.stream.trainer import ContinualTrainer


class StageCallback(Callback):
    """A Lightning callback with stage hooks; each runs once per stage of the stream, in this order."""

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

    def before_loading(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        """Before the model's weights are read; the run folder exists."""

    def on_stream_start(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        """Before the first stage (on resume: before the next one); the run folder exists."""

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        """The model has grown for the stage; loader, optimizer and schedule are not yet built."""

    def on_stage_end(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        """Training of the stage is over and `method.end_stage` was called; the stage is not yet saved."""

    def on_stage_saved(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        """The stage is saved and counts as trained; called again on resume until it is evaluated."""

    def on_stream_end(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        """After the last stage is evaluated."""
