"""Before the first cell runs: every configuration is built, and no run folder holds another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.load import conditions_of
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.run import (
    OF_THE_MACHINE,
    Conditions,
    RunRecord,
    changes,
    config_changes,
    config_digest,
    in_words,
    read_json,
)
from lit_cvit.sweep.cells import Cell, Sweep
from lit_cvit.utils.wording import counted, listed
from lit_cvit.utils.yaml_file import mapping_in


@dataclass(frozen=True)
class Checked:
    """A cell whose configuration was built.

    Attributes:
        cell: The cell.
        config: Its resolved configuration, as the run folder keeps it.
        digest: The digest of that.
        conditions: What decides its numbers beside that, such as the benchmark's files; None where no cell
            of its arguments has a run folder yet, or the backbone is not on this machine.
    """

    cell: Cell
    config: Mapping[str, Any]
    digest: str
    conditions: Conditions | None = None


def check_cells(sweep: Sweep, cells: Sequence[Cell], *, place: str = "") -> list[Checked]:
    """Build the objects of every configuration; cells that differ in their seed alone are built once.

    Args:
        sweep: The sweep.
        cells: Those of its cells to check.
        place: What messages start with; by default the sweep's name.

    Raises:
        ValueError: configurations are wrong, or two cells would be the same run; names the cells, and each
            one's key.
    """
    place = place or sweep.name
    begun = {cell.arguments for cell in cells if (sweep.run_path(cell) / "run.json").is_file()}
    built: dict[tuple[str, ...], tuple[dict[str, Any], Conditions | None]] = {}
    wrong: dict[tuple[str, ...], str] = {}
    checked: list[Checked] = []
    for cell in cells:
        if cell.arguments not in built and cell.arguments not in wrong:
            try:
                built[cell.arguments] = _built(cell, begun=cell.arguments in begun)
            except ValueError as error:
                wrong[cell.arguments] = f"cell {cell.name}: {error}"
        if cell.arguments in built:
            decided: dict[str, Any] = {"seed_everything": cell.seed}
            if cell.start_from:
                decided["start_from"] = str(sweep.run_root / cell.start_from)
            config, conditions = built[cell.arguments]
            config = {**config, **decided}
            checked.append(Checked(cell, config, config_digest(config, ignore=OF_THE_MACHINE), conditions))
    if wrong:
        raise CleanExit(
            "\n  ".join([f"{place}: {counted(len(wrong), 'configuration')} cannot be run:", *wrong.values()])
        )
    _refuse_equal(checked, place)
    return checked


def _built(cell: Cell, *, begun: bool) -> tuple[dict[str, Any], Conditions | None]:
    """The resolved configuration of a cell, whose objects and stream can be built, and its conditions."""
    cli = StreamCLI(cell.arguments, run=False)
    data = cli.datamodule
    assert isinstance(data, ContinualDataModule)
    # Settings of the benchmark are read when it is built.
    assert data.stream
    return cli.resolved_config(), conditions_of(cli) if begun else None


def _refuse_equal(checked: Sequence[Checked], place: str) -> None:
    first: dict[str, str] = {}
    for each in checked:
        other = first.setdefault(each.digest, each.cell.name)
        if other != each.cell.name:
            raise CleanExit(f"{place}: cells {other} and {each.cell.name} are the same run; leave one out")


def refuse_other_runs(sweep: Sweep, checked: Sequence[Checked]) -> None:
    """Refuse run folders of another configuration than their cell's, or made under other conditions.

    Raises:
        ValueError: there are some; names each, and what differs.
    """
    reasons = [reason for each in checked if (reason := other_run(sweep, each))]
    if reasons:
        advice = "move them away, or give the sweep another run_root"
        raise ValueError(
            "\n  ".join([f"these run folders are not those of their cells; {advice}:", *reasons])
        )


def other_run(sweep: Sweep, checked: Checked) -> str:
    """Why a cell's run folder is that of another run; empty if it is the cell's, or not there."""
    path = sweep.run_path(checked.cell)
    if not (path / "run.json").is_file():
        return ""
    record = RunRecord.from_json(read_json(path / "run.json"), source=path / "run.json")
    if record.config_digest == checked.digest:
        found = changes(record.conditions, checked.conditions) if checked.conditions is not None else []
        return f"{path} was made under other conditions: {in_words(found)}" if found else ""
    names = config_changes(mapping_in(path / "config.yaml"), checked.config)
    return f"{path} differs in {listed(names) or 'its configuration'}"
