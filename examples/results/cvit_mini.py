"""SMoLoRA and its baselines on `cvit-mini`: the first tables of docs/results.md.

    python examples/results/cvit_mini.py run &      # as many processes as there are cores
    python examples/results/cvit_mini.py run
    python examples/results/cvit_mini.py table

A cell that is finished is skipped, a cell that was cut off continues with its next stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from cells import Cell, command
from tables import write_tables

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


if __name__ == "__main__":
    command(cells(), write_tables, "runs/results", __doc__.splitlines()[0])
