"""The tables of docs/results.md: every cell a run folder, resumable, any number of processes side by side.

    python examples/results/cvit_mini.py run --shard 0/2 &
    python examples/results/cvit_mini.py run --shard 1/2
    python examples/results/cvit_mini.py table

A cell that is finished is skipped, a cell that was cut off continues with its next stage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_cvit.__main__ import main as lit_cvit
from lit_cvit.run import RunFolder, Status

SEEDS = (0, 1, 2)
STYLES = ("single", "multi")
METHODS: dict[str, tuple[str, ...]] = {
    "SeqLoRA": ("--model", "SeqLoRA"),
    "SMoLoRA": ("--model", "SMoLoRA"),
    "SMoLoRA-official": ("--model", "SMoLoRA", "--model.preset", "official"),
    "DirLoRA": ("--model", "DirLoRA"),
    "Multitask": ("--model", "Multitask"),
}
ABLATION: dict[str, tuple[str, ...]] = {
    "VU": ("--model", "SMoLoRA", "--model.use_if", "false"),
    "IF": ("--model", "SMoLoRA", "--model.use_vu", "false"),
    "VU-IF-mean": ("--model", "SMoLoRA", "--model.fusion", "mean"),
}
COMMON = ("--config", "studies/cvit_mini")
FEW_SHOT_EPOCHS = 20


@dataclass(frozen=True)
class Cell:
    """One run: its name, which is its folder, and the arguments that make it."""

    name: str
    arguments: tuple[str, ...]
    after: str = ""


def cells() -> Iterator[Cell]:
    """All runs, the most telling first, a run before those that start from it."""
    yield from _main_cells("single", ("SeqLoRA", "SMoLoRA"))
    yield Cell("ZeroShot-single-0", _arguments(("--model", "ZeroShot"), "single", 0))
    yield from _main_cells("single", ("DirLoRA",))
    for seed in SEEDS:
        for name, arguments in ABLATION.items():
            yield Cell(f"{name}-single-{seed}", _arguments(arguments, "single", seed))
    yield from _main_cells("single", ("SMoLoRA-official", "Multitask"))
    for seed in SEEDS:
        for shots in (5, 10):
            for method in ("SeqLoRA", "SMoLoRA"):
                yield _few_shot(method, shots, seed)
    yield Cell("ZeroShot-multi-0", _arguments(("--model", "ZeroShot"), "multi", 0))
    yield from _main_cells("multi", tuple(METHODS))


def _main_cells(style: str, methods: tuple[str, ...]) -> Iterator[Cell]:
    for seed in SEEDS:
        for method in methods:
            yield Cell(f"{method}-{style}-{seed}", _arguments(METHODS[method], style, seed))


def _arguments(method: tuple[str, ...], style: str, seed: int) -> tuple[str, ...]:
    return (*COMMON, *method, "--data.instructions", style, "--seed_everything", str(seed))


def _few_shot(method: str, shots: int, seed: int) -> Cell:
    arguments = (
        *_arguments(METHODS[method], "single", seed),
        *("--data.tasks", "[Places365]", "--data.settings", json.dumps({"shots": shots})),
        *("--data.epochs", str(FEW_SHOT_EPOCHS)),
    )
    return Cell(f"{method}-{shots}shot-{seed}", arguments, after=f"{method}-single-{seed}")


def is_finished(folder: Path) -> bool:
    """Whether a cell's run has evaluated all its stages."""
    if not (folder / "run.json").is_file():
        return False
    record = RunFolder.open(folder).record
    stages = [stage.status for stage in record.stages]
    return len(stages) == record.num_stages and set(stages) == {Status.EVALUATED}


def run_cell(cell: Cell, root: Path) -> None:
    """Run or continue a cell."""
    start = ("--start_from", str(root / cell.after)) if cell.after else ()
    resume = ("--ckpt_path", "last") if (root / cell.name).exists() else ()
    status = lit_cvit(["fit", *cell.arguments, *start, *resume, "--run_root", str(root), "--name", cell.name])
    if status:
        sys.exit(f"cell {cell.name} failed with status {status}")


def main() -> None:
    """Run a shard of the cells, or print the tables of what is finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("run", "table", "list"))
    parser.add_argument("--root", type=Path, default=Path("runs/results"))
    parser.add_argument("--shard", default="0/1", help="number of this process / number of processes")
    options = parser.parse_args()
    number, count = map(int, options.shard.split("/"))
    chosen = [cell for index, cell in enumerate(cells()) if index % count == number]
    if options.what == "table":
        from tables import write_tables

        write_tables(options.root, sys.stdout)
        return
    for cell in chosen:
        finished = is_finished(options.root / cell.name)
        print(f"{cell.name}: {'finished' if finished else 'to do'}")
        if options.what == "run" and not finished:
            run_cell(cell, options.root)


if __name__ == "__main__":
    main()
