"""sweep: run configurations with several seeds and a grid of settings, and leave a small JSON of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lit_cvit.cli.arguments import own_options
from lit_cvit.cli.errors import CleanExit

_EXAMPLES = """
A SWEEP is a file, or the name of a shipped one; without it, the command line alone says what to run:

  sweep cvit_mini --processes 2
  sweep --name ranks --config studies/cvit_mini --grid model=SeqLoRA,SMoLoRA --grid model.rank=16,32

Every other option is one of `fit`, for all cells. The same command again, also beside a running one, goes on
with what is left. docs/sweeps.md has the file's keys and a script for a cluster.
"""


def run(argv: Sequence[str]) -> int:
    """Run the verb; the exit status is 1 where a cell failed."""
    parser = _parser()
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    named = bool(argv) and not argv[0].startswith("-")
    chosen, rest = own_options(parser, argv[1:] if named else argv)
    if chosen.processes < 1:
        raise CleanExit(f"--processes must be at least 1, got {chosen.processes}")

    from rich.console import Console

    from lit_cvit.sweep import Sweeper, check_cells, chosen_cells
    from lit_cvit.sweep.choice import Shard
    from lit_cvit.sweep.progress import Progress, lines, summary, table

    sweep, place = _sweep(argv[0] if named else "", chosen, rest)
    cells = chosen_cells(sweep, only=chosen.only, shard=Shard.parse(chosen.shard))
    if not cells:
        print(f"no cell of {place} is in this share")
        return 0
    checked = check_cells(sweep, cells, place=place)
    console = Console(highlight=False, soft_wrap=True)
    progress = Progress(sweep, checked, console)
    if chosen.list:
        states = progress.states()
        console.print(table(states) if console.is_terminal else "\n".join(lines(states)), markup=False)
        console.print(summary(states))
        return 0
    return 0 if Sweeper(sweep, checked, chosen.processes, progress).run() else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lit_cvit sweep [SWEEP]",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="cells side by side; of one thread each if several"
    )
    parser.add_argument("--list", action="store_true", help="show how far the cells are, and run nothing")
    parser.add_argument(
        "--only", action="append", default=[], help="cells of this name; * stands for any text"
    )
    parser.add_argument("--shard", default="1/1", help="a share of the cells, such as 2/8")
    parser.add_argument("--seeds", help="seeds, separated by commas, instead of the file's")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help="values of an option of `fit`"
    )
    parser.add_argument("--run_root", help="folder of the run folders; by default runs/NAME")
    parser.add_argument("--results", help="folder of the results; by default results/NAME")
    parser.add_argument("--name", help="name of a sweep without a file")
    return parser


def _sweep(file: str, chosen: argparse.Namespace, rest: Sequence[str]) -> tuple[Any, str]:
    """The sweep of a file or of the command line alone, and what messages about it start with."""
    from lit_cvit.cli.shipped import find_sweep
    from lit_cvit.sweep import build_sweep, read_sweep

    path = find_sweep(file) if file else None
    if path is not None and chosen.name:
        raise CleanExit("--name goes with a sweep of the command line; a file's is its own")
    if path is None and not (chosen.name and (rest or chosen.grid)):
        raise CleanExit(
            "name a sweep (a file, or a shipped one), or give --name and options of `fit`; see --help"
        )
    # Without a file the options come first, and the grid changes what they say.
    alone: dict[str, Any] = {"cells": {chosen.name: []}, "common": [*rest]}
    values = read_sweep(path) if path is not None else alone
    values |= {key: text for key in ("run_root", "results") if (text := getattr(chosen, key))}
    if chosen.seeds:
        values["seeds"] = _values("--seeds", chosen.seeds)
    for text in chosen.grid:
        key, has_values, listed = text.partition("=")
        if not has_values:
            raise CleanExit(
                f"--grid must be an option of `fit` and its values, such as model.rank=16,32; got {text!r}"
            )
        grid = values.setdefault("grid", {})
        if isinstance(grid, dict):
            grid[key.lstrip("-")] = _values(f"--grid {key}", listed)
    place, more = (str(path), rest) if path is not None else ("sweep", ())
    return build_sweep(path.stem if path is not None else chosen.name, values, more=more, place=place), place


def _values(option: str, text: str) -> list[Any]:
    """Values that are separated by commas, each as in YAML."""
    import yaml

    try:
        values: list[Any] = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise CleanExit(f"{option}: got {text!r}; it must be values separated by commas") from error
    return values
