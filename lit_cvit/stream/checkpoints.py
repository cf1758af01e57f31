"""Checkpoints inside a stage: when they are written and how, and the signal that asks for a last one.

A checkpoint is Lightning's own, cut down by the method to what trains, and read with `weights_only=True`. It
goes through the run's writer, so a crash leaves the one before it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunFolder
from lit_cvit.stream.finite import FiniteCheck
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.distributed import any_rank
from lit_cvit.utils.finite import require_finite

log = logging.getLogger("lit_cvit")


class Stopped(SystemExit):
    """Raised at the next safe point after a signal; ends the process with 128 + its number, as shells say it.

    Args:
        number: The signal; SIGTERM ends with status 143, Ctrl-C with 130.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


class StopSignal:
    """Notices SIGTERM and Ctrl-C, and lets all ranks stop at the same point.

    Lightning's own handler runs a collective inside the signal handler, where it can meet another rank's
    gradient reduction; here the handler sets a flag and the ranks agree between two steps. A second Ctrl-C
    does not wait for that.

    Attributes:
        received: The signal that this rank got, or 0.
    """

    def __init__(self) -> None:
        self.received, self._process = 0, os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the signals inside the block; Python allows that in the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self, device: torch.device) -> None:
        """Stop if any rank got the signal; all ranks must call it at the same point.

        Raises:
            Stopped: it did.
        """
        if self.stop_requested(device):
            raise self.stopped()

    def stop_requested(self, device: torch.device) -> bool:
        """Whether any rank got a signal; all ranks must ask at the same point."""
        return any_rank(bool(self.received), device)

    def stopped(self) -> Stopped:
        """What is raised at a safe point; a rank without a signal of its own stops as by SIGTERM."""
        return Stopped(self.received or signal.SIGTERM)

    def _handle(self, number: int, frame: object) -> None:
        # Loader processes inherit this handler and get Ctrl-C too; they go on, the step needs them.
        if os.getpid() != self._process:
            return
        if number == signal.SIGINT:
            if self.received == signal.SIGINT:
                raise KeyboardInterrupt
            message = "stopping after this step, with a checkpoint; Ctrl-C again stops at once"
            print(f"\n{message}", file=sys.stderr)
        self.received = number


class NoSignals(_SignalConnector):
    """Leaves every signal to `StopSignal`; a cluster's requeue signal would bypass the stages."""

    def register_signal_handlers(self) -> None:
        """Register nothing."""
        self.received_sigterm = False


class RunCheckpointIO(CheckpointIO):
    """Writes a trainer's checkpoints through the writer of its run."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; the log's rows up to it reach the disk first."""
        self.run.writer.sync()
        self.run.writer.write_with(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain values alone, onto the CPU.

        Raises:
            ValueError: a tensor of the method is not finite; names it.
        """
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        require_finite(checkpoint["state_dict"], place=str(path), fix="it is of training that went wrong")
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        self.run.writer.remove(Path(path))


class StageCheckpoints(StageCallback):
    """Writes the checkpoint of the running stage, and stops there after a signal.

    Only between two optimizer steps: inside one, gradients of earlier micro-batches would be lost. Not after
    an epoch's last step either, where hooks of the epoch's end are still to run; the next step is as good.

    Args:
        every_n_steps: Optimizer steps between checkpoints; 0 writes one only after SIGTERM or Ctrl-C.
        stop: Notices the signals.
        check: Refuses a state that is not finite.
    """

    def __init__(self, every_n_steps: int, stop: StopSignal, check: FiniteCheck) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.stop, self.check = stop, check
        self._steps_saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps_saved = trainer.global_step

    def on_step_end(self, trainer: StreamTrainer, method: ContinualMethod, step: int) -> None:
        assert isinstance(trainer, L.Trainer)
        stopping = self.stop.stop_requested(trainer.strategy.root_device)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        due = self.every_n_steps > 0 and step + 1 - self._steps_saved >= self.every_n_steps
        if due or stopping:
            io = trainer.strategy.checkpoint_io
            assert isinstance(io, RunCheckpointIO)
            self.check.require_finite_state(trainer, method)
            trainer.save_checkpoint(io.run.checkpoint_path)
            self._steps_saved = step + 1
        if stopping:
            raise self.stop.stopped()


def checkpoint_step(run: RunFolder, stage: int) -> int | None:
    """Optimizer steps of the stream at the run's checkpoint, or None if it has none of that stage.

    A checkpoint that cannot be read is passed over with a warning: the stage then starts again.
    """
    path = run.checkpoint_path
    if not path.is_file():
        return None
    try:
        checkpoint = RunCheckpointIO(run).load_checkpoint(path)
        found, step = int(checkpoint["stage"]), int(checkpoint["global_step"])
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        log.warning("%s cannot be read (%s); stage %d starts again", path, error, stage)
        return None
    return step if found == stage else None
