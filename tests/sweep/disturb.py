"""A callback that ends a cell's process, or fails, as long as a file is there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class Disturb(Callback):
    """Kills the process before an optimizer step of the stream, or raises an error there.

    Args:
        flag: The file.
        step: The step.
        kills: Whether the process is killed.
    """

    def __init__(self, flag: str, step: int = 0, kills: bool = True) -> None:
        super().__init__()
        self.flag, self.step, self.kills = Path(flag), step, kills

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step != self.step or not self.flag.is_file():
            return
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("the disk is\nfull of\nkittens")
