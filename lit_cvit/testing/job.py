"""What a process of the kit is to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What the parent of the processes finds in its environment.
PARENT = {"LIT_CVIT_KIT_PARENT": "1"}


@dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
        name: Names its files.
        root: Folder of runs and of what the process observes.
        config: The run's configuration, as a YAML file would hold it.
        task: Function of `lit_cvit.testing.child` that runs.
        run: Name of the run's folder.
        resume: Whether the run goes on where it was.
        kill_at: Optimizer steps of the stream after which the process kills itself, or of a method that does
            not train, the end of the run; none lives.
        rank: Rank of the process.
        ranks: Number of ranks.
        port: Port that ranks meet at.
        strategy: How several ranks train together.
        scored: Whether stages are evaluated.
        planned: Whether a fit plans its memory, a quarter of the time of so small a fit.
        slurm: Whether SLURM's variables tell a rank where it is, not torchrun's.
    """

    name: str
    root: Path
    config: dict[str, Any] = field(default_factory=dict)
    task: str = "fit"
    run: str = "run"
    resume: bool = False
    kill_at: int | None = None
    rank: int = 0
    ranks: int = 1
    port: int = 0
    strategy: str = "ddp"
    scored: bool = True
    planned: bool = False
    slurm: bool = False

    @property
    def observed(self) -> Path:
        """What the process saw, as `torch.save` writes it."""
        return self.root / f"{self.name}-{self.rank}.pt"

    @property
    def failure(self) -> Path:
        """The stack trace of a process that failed."""
        return self.root / f"{self.name}-{self.rank}.txt"
