"""A cell is one run of a sweep: an entry of its file at one point of the grid, with one seed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_cvit.run import file_name

Grid = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Entry:
    """An entry under `cells`: the cells of one name.

    Attributes:
        name: Its key.
        arguments: Arguments of `fit`, those of all cells before its own.
        seeds: Seeds of its cells.
        grid: Values by option; there is a cell for every combination.
        start_from: Name of the entry whose cells these start from; empty for none.
    """

    name: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    grid: Grid = field(default_factory=dict)
    start_from: str = ""

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values; one without any where there is no grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def group(self, point: Mapping[str, Any]) -> str:
        """The name of its cells at a point, without the seed: `SMoLoRA-rank_16`."""
        last = [key.rpartition(".")[2] for key in self.grid]
        names = zip(self.grid, last, strict=True)
        short = {key: name if last.count(name) == 1 else key for key, name in names}
        return "-".join([self.name, *(f"{short[key]}_{_label(value)}" for key, value in point.items())])

    def cell_name(self, point: Mapping[str, Any], seed: int) -> str:
        """The name of one of its cells, which is a file name."""
        return file_name(f"{self.group(point)}-{seed}")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: Name of its run folder and, with `.json`, of its results.
        group: What the cells that differ in their seed alone have in common.
        seed: Seed of the run.
        arguments: Arguments of `fit` without those that the sweep decides.
        start_from: Name of the cell that it starts from; empty for none.
    """

    name: str
    group: str
    seed: int
    arguments: tuple[str, ...]
    start_from: str = ""


@dataclass(frozen=True)
class Sweep:
    """Cells and where they go.

    Attributes:
        name: Its name, by default that of its file.
        run_root: Folder of the run folders.
        results: Folder of the results, one JSON per cell.
        cells: The cells in the order in which they are made.
    """

    name: str
    run_root: Path
    results: Path
    cells: tuple[Cell, ...]

    def cell(self, name: str) -> Cell:
        """The cell of a name."""
        return next(cell for cell in self.cells if cell.name == name)

    def run_path(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.run_root / cell.name

    def result_path(self, cell: Cell) -> Path:
        """The file of a cell's results."""
        return self.results / f"{cell.name}.json"

    def folder(self, cell: Cell) -> Path:
        """Folder of what the sweep itself keeps of a cell: lock, log, and why it failed."""
        return self.run_root / "sweep" / cell.name

    def log_path(self, cell: Cell) -> Path:
        """What the processes that made a cell printed."""
        return self.folder(cell) / "log.txt"

    def failure_path(self, cell: Cell) -> Path:
        """Why the last attempt at a cell failed, if it did."""
        return self.folder(cell) / "failure.json"

    def fit_arguments(self, cell: Cell) -> list[str]:
        """The command line of `fit` that starts a cell, or goes on with it."""
        decided = {
            "--seed_everything": str(cell.seed),
            "--run_root": str(self.run_root),
            "--name": cell.name,
            "--ckpt_path": "last",
        }
        if cell.start_from:
            decided["--start_from"] = str(self.run_root / cell.start_from)
        return [*cell.arguments, *(f"{option}={text}" for option, text in decided.items())]


def _label(value: Any) -> str:
    """A value in the name of a cell."""
    return "_".join(map(_label, value)) if isinstance(value, list) else as_text(value)


def as_text(value: Any) -> str:
    """A value of YAML as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
