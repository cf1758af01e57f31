"""RunLogger: Lightning's log calls as JSON lines in the run folder, through the run's one writer.

Lightning's CSVLogger drops earlier rows on resume; this one only appends.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_cvit.run import RunFolder


class RunLogger(Logger):
    """Appends every metric row to `log.jsonl` with its stream step."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.path.name

    @property
    def version(self) -> str:
        """Runs are not versioned inside their folder."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        self.run.log({"step": step, **{name: float(value) for name, value in metrics.items()}})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the whole configuration."""
