"""Which cells of a sweep one call makes: a share of them, and those that a pattern names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_cvit.cli.errors import CleanExit
from lit_cvit.sweep.cells import Cell, Sweep
from lit_cvit.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Shard:
    """A share of the cells.

    Attributes:
        number: Which one, from 1.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/8`.

        Raises:
            CleanExit: it is not of that form.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise CleanExit(f"--shard must be a share such as 2/8, from 1/8 to 8/8; got {text!r}")
        return cls(int(found[1]), int(found[2]))


def chosen_cells(sweep: Sweep, *, only: Sequence[str] = (), shard: Shard | None = None) -> list[Cell]:
    """The cells of a call, in the order of the sweep.

    A cell and those that start from it are always in one share, so that no job waits for another.

    Args:
        sweep: The sweep.
        only: Patterns (`SMoLoRA-*`) of the names of cells, of which one must fit; none lets all through.
        shard: The share; by default all.

    Raises:
        ValueError: a pattern fits no cell.
    """
    names = [cell.name for cell in sweep.cells]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            parts = (f"--only {pattern!r} fits no cell.", did_you_mean(pattern, names))
            hint = "`--list` shows all; * stands for any text"
            raise CleanExit(" ".join(filter(None, (*parts, hint))))
    share = shard or Shard()
    chains = list(dict.fromkeys(_first(sweep, cell) for cell in sweep.cells))
    mine = set(chains[share.number - 1 :: share.count])
    return [
        cell
        for cell in sweep.cells
        if _first(sweep, cell) in mine
        and (not only or any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in only))
    ]


def _first(sweep: Sweep, cell: Cell) -> str:
    """The name of the cell at the start of a chain of cells."""
    while cell.start_from:
        cell = sweep.cell(cell.start_from)
    return cell.name
