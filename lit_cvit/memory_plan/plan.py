"""The memory plan as a value: its lines, its totals, its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the plan.

    Attributes:
        name: What takes the memory.
        size: Bytes.
        how: How it is computed.
        estimated: True where it is a guess at what code passes through, and not counted.
    """

    name: str
    size: int
    how: str
    estimated: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """What a run holds at its most on one device.

    Attributes:
        held: The frozen model by part, and all adapters that exist in the last stage.
        training: What comes to it while training; empty for a method that never trains.
        answering: What comes to it while test samples are answered.
    """

    held: tuple[Row, ...]
    training: tuple[Row, ...]
    answering: tuple[Row, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the frozen model."""
        return sum(row.size for row in self.held if row.name != "adapters")

    def peak_bytes(self, *, estimated: bool = True) -> int:
        """Bytes of the larger of training and answering, with or without what is only estimated."""
        totals = [
            _total((*self.held, *rows), estimated=estimated) for rows in (self.training, self.answering)
        ]
        return max(totals)

    def row(self, phase: str, name: str) -> Row:
        """A line by its phase (`held`, `training` or `answering`) and name."""
        phases = {"held": self.held, "training": self.training, "answering": self.answering}
        return next(row for row in phases[phase] if row.name == name)

    def lines(self) -> list[str]:
        """The plan as text."""
        lines = ["memory plan, computed before the weights are loaded", *map(_line, self.held)]
        for phase, rows in (("training", self.training), ("answering", self.answering)):
            if rows:
                total = Row(f"{phase} in all", _total((*self.held, *rows)), "with the weights and adapters")
                lines += [*map(_line, rows), _line(total)]
        return lines


def _total(rows: Iterable[Row], *, estimated: bool = True) -> int:
    return sum(row.size for row in rows if estimated or not row.estimated)


def _line(row: Row) -> str:
    return f"  {row.name:<18}{readable(row.size):>12}  {row.how}"


def readable(size: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"
