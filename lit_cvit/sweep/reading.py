"""Reads a sweep from its file, and refuses what is wrong with it by key and cell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cvit.cli.arguments import options
from lit_cvit.cli.errors import CleanExit
from lit_cvit.sweep.cells import Cell, Entry, Grid, Sweep, as_text
from lit_cvit.utils.suggest import unknown
from lit_cvit.utils.yaml_file import read_yaml

_KEYS = ("run_root", "results", "seeds", "common", "cells", "grid")
_CELL_KEYS = ("arguments", "start_from", "seeds", "grid")
# Options of `fit` that a sweep decides, and what to use instead.
_DECIDED = {
    "--seed_everything": "use `seeds`",
    "--run_root": "use `run_root` of the sweep",
    "--name": "the key of the cell is its name",
    "--ckpt_path": "a cell that was cut off goes on by itself",
    "--start_from": "use `start_from` with the name of a cell",
}


def read_sweep(path: Path) -> dict[str, Any]:
    """Read the file of a sweep as plain values.

    Raises:
        ValueError: the file is not UTF-8, not YAML, has a key twice, or is no mapping; names file and line.
    """
    return read_yaml(path, content="of a sweep: `cells`, `seeds` ...")


def build_sweep(name: str, values: Mapping[str, Any], *, more: Sequence[str] = (), place: str = "") -> Sweep:
    """Check the values of a sweep, and make its cells.

    Args:
        name: Name of the sweep.
        values: What its file holds.
        more: Further arguments of `fit` for every cell; they come last.
        place: What messages start with; by default the name.

    Raises:
        ValueError: a key is unknown or has a wrong value, a cell or a value is there twice, or a cell starts
            from one that does not exist; names key and cell.
    """
    place = place or name
    for key in values:
        if key not in _KEYS:
            raise CleanExit(f"{place}: {unknown('key', key, _KEYS)}")
    cells = values.get("cells")
    if not isinstance(cells, Mapping) or not cells:
        raise CleanExit(f"{place}: cells: got {cells!r}; it must map names to arguments of `fit`")
    common = (*_words(values.get("common", []), f"{place}: common"),)
    entries = [_entry(str(key), cell, values, common, place) for key, cell in cells.items()]
    folders = {
        key: _folder(values.get(key, f"{default}/{name}"), f"{place}: {key}") for key, default in _ROOTS
    }
    made = _cells(entries, (*_words([*more], place),), place)
    return Sweep(name, folders["run_root"], folders["results"], tuple(made))


_ROOTS = (("run_root", "runs"), ("results", "results"))


def _folder(value: Any, place: str) -> Path:
    if not isinstance(value, str) or not value:
        raise CleanExit(f"{place}: got {value!r}; it must be the path of a folder")
    return Path(value)


def _entry(name: str, cell: Any, values: Mapping[str, Any], common: tuple[str, ...], place: str) -> Entry:
    """An entry under `cells`: its own seeds and grid come before those of the sweep."""
    where = f"{place}: cell {name}"
    own = cell if isinstance(cell, Mapping) else {"arguments": cell}
    for key in own:
        if key not in _CELL_KEYS:
            raise CleanExit(f"{where}: {unknown('key', key, _CELL_KEYS)}")
    start_from = own.get("start_from", "")
    if not isinstance(start_from, str):
        raise CleanExit(f"{where}: start_from: got {start_from!r}; it must be the name of a cell")
    return Entry(
        name,
        (*common, *_words(own.get("arguments", []), f"{where}: arguments")),
        _seeds(own.get("seeds", values.get("seeds", [0])), f"{where}: seeds"),
        _grid(own.get("grid", values.get("grid", {})), f"{where}: grid"),
        start_from,
    )


def _words(value: Any, place: str) -> list[str]:
    """Arguments of `fit`, written as one text or as a list."""
    if value is None:
        return []
    if not isinstance(value, str | list):
        raise CleanExit(f"{place}: got {value!r}; it must be arguments of `fit`, as a text or a list")
    words = shlex.split(value) if isinstance(value, str) else [as_text(each) for each in value]
    try:
        given = [option for option, _ in options(words)]
    except CleanExit as error:
        raise CleanExit(f"{place}: {error}") from error
    for option in given:
        if option in _DECIDED:
            raise CleanExit(f"{place}: {option} is what the sweep decides; {_DECIDED[option]}")
    return words


def _seeds(value: Any, place: str) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise CleanExit(f"{place}: got {value!r}; it must be a list of whole numbers, 0 or more")
    _refuse_twice([str(seed) for seed in seeds], place)
    return tuple(seeds)


def _grid(value: Any, place: str) -> Grid:
    if not isinstance(value, Mapping):
        raise CleanExit(f"{place}: got {value!r}; it must be a mapping of an option to a list of values")
    for key, each in value.items():
        if f"--{key}" in _DECIDED or key == "config":
            instead = _DECIDED.get(f"--{key}", "make a cell for each configuration")
            raise CleanExit(f"{place}: {key} cannot be in a grid; {instead}")
        if not isinstance(each, list) or not each:
            raise CleanExit(f"{place}: {key}: got {each!r}; it must be a list of values")
        _refuse_twice([as_text(one) for one in each], f"{place}: {key}")
    return {str(key): tuple(each) for key, each in value.items()}


def _refuse_twice(names: Sequence[str], place: str) -> None:
    # A file system may take names that differ in their case alone for one.
    folded = [name.casefold() for name in names]
    twice = [name for position, name in enumerate(names) if folded[position] in folded[:position]]
    if twice:
        raise CleanExit(f"{place}: {twice[0]} is there twice")


def _cells(entries: Sequence[Entry], more: tuple[str, ...], place: str) -> list[Cell]:
    """All cells, seed by seed in the order of the file, a cell before those that start from it."""
    by_name = {entry.name: entry for entry in entries}
    cells: list[Cell] = []
    seeds = list(dict.fromkeys(seed for entry in entries for seed in entry.seeds))
    for seed in seeds:
        for entry in _in_order(by_name, place):
            for point in entry.points() if seed in entry.seeds else ():
                drawn = [f"--{key}={as_text(value)}" for key, value in point.items()]
                source = _source(entry, by_name, point, seed, place) if entry.start_from else ""
                name, group = entry.cell_name(point, seed), entry.group(point)
                cells.append(Cell(name, group, seed, (*entry.arguments, *drawn, *more), source))
    _refuse_twice([cell.name for cell in cells], f"{place}: cells")
    return cells


def _in_order(entries: Mapping[str, Entry], place: str) -> list[Entry]:
    """The entries with those that others start from first."""
    ordered: dict[str, Entry] = {}
    for entry in entries.values():
        chain = [entry]
        while source := chain[-1].start_from:
            where = f"{place}: cell {chain[-1].name}: start_from"
            if source not in entries:
                raise CleanExit(f"{where}: {unknown('cell', source, entries)}")
            if entries[source] in chain:
                raise CleanExit(f"{where}: {source} starts from {chain[-1].name} itself")
            chain.append(entries[source])
        ordered |= {each.name: each for each in reversed(chain) if each.name not in ordered}
    return list(ordered.values())


def _source(
    entry: Entry, entries: Mapping[str, Entry], point: Mapping[str, Any], seed: int, place: str
) -> str:
    """The name of the cell of the same seed, and of the same values of its grid, to start from."""
    source = entries[entry.start_from]
    there = {key: point[key] for key in source.grid if key in point}
    known = [as_text(each) for each in source.points()]
    if seed not in source.seeds or as_text(there) not in known:
        raise CleanExit(
            f"{place}: cell {entry.name}: start_from: {source.name} has no cell with seed {seed}"
            f"{f' and {as_text(dict(point))}' if point else ''}; give both the same `seeds` and `grid`"
        )
    return source.cell_name(there, seed)
