"""What `compare` reads: run folders and results of sweeps, in groups that differ in their seed alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_cvit.report.results import Result, read_result, read_results
from lit_cvit.run import (
    OF_THE_MACHINE,
    SCHEMA_VERSION,
    RunFolder,
    RunRecord,
    ScoreMatrix,
    config_digest,
    migrate_config,
)
from lit_cvit.run.folder import RECORD
from lit_cvit.utils.yaml_file import mapping_in


@dataclass(frozen=True)
class Compared:
    """One run, out of its folder or out of the results of a sweep.

    Attributes:
        source: Its folder or file, as messages name it.
        name: Name of the folder or of the cell.
        group: What runs that differ in their seed alone have in common, and no other has.
        record: The run's record; that of results has no stages.
        matrix: Scores by stage and task.
        config: The resolved configuration; empty for a run that was started from Python.
        run: The run folder, which holds predictions; None for results.
        sweep_group: Name of the group in its sweep; empty for a run folder.
    """

    source: str
    name: str
    group: str
    record: RunRecord
    matrix: ScoreMatrix
    config: Mapping[str, Any]
    run: RunFolder | None = None
    sweep_group: str = ""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.record.seed


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        name: What tables call them; no two groups have one name.
        runs: The runs, by seed.
    """

    name: str
    runs: tuple[Compared, ...]

    @property
    def seeds(self) -> list[int]:
        """Seeds in ascending order."""
        return [run.seed for run in self.runs]


def read_compared(paths: Sequence[Path]) -> list[Compared]:
    """The runs that paths name: run folders, files of results, and folders of them, in the order given.

    Raises:
        ValueError: a path is none of these, is damaged, or one run is named twice; names it.
    """
    found = [each for path in paths for each in _read(path)]
    places = [Path(each.source).resolve() for each in found]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(f"{found[number].source} is named twice; name every run once")
    return found


def groups_of(runs: Sequence[Compared]) -> list[Group]:
    """The groups in the order of their first runs.

    Raises:
        ValueError: two runs of a group have the same seed; names both.
    """
    by_key: dict[str, list[Compared]] = {}
    for run in runs:
        members = by_key.setdefault(run.group, [])
        for other in members:
            if other.seed == run.seed:
                raise ValueError(
                    f"{run.source} has the configuration and the seed ({run.seed}) of {other.source}, so the "
                    "two are one result; name one of them"
                )
        members.append(run)
    groups = [Group(_name(each), tuple(sorted(each, key=lambda run: run.seed))) for each in by_key.values()]
    names = [group.name for group in groups]
    return [
        replace(group, name=group.runs[0].source) if names.count(group.name) > 1 else group
        for group in groups
    ]


def _read(path: Path) -> list[Compared]:
    if path.name == RECORD and path.is_file():
        raise ValueError(f"{path} is the record of a run; name the folder {path.parent}")
    if path.is_file():
        return [_of_result(path, read_result(path))]
    if path.is_dir() and not (path / RECORD).is_file():
        sweeps = sorted({str(each.parent) for each in path.glob("*/*.json") if each.name != RECORD})
        runs = any(path.glob(f"*/{RECORD}"))
        if sweeps and not runs:
            raise ValueError(f"{path} holds the results of several sweeps; name one of {', '.join(sweeps)}")
        if not runs and (results := read_results(path)):
            return [_of_result(path / f"{result.name}.json", result) for result in results]
    return [_of_run(path)]


def _of_result(path: Path, result: Result) -> Compared:
    plain = {"schema": SCHEMA_VERSION, **result.run, "seed": result.seed, "stages": []}
    return Compared(
        source=str(path),
        name=result.name,
        group=f"results of {result.sweep}: {result.group}",
        record=RunRecord.from_json(plain, source=path),
        matrix=result.matrix,
        config=result.config,
        sweep_group=result.group,
    )


def _of_run(path: Path) -> Compared:
    run = RunFolder.open(path)
    name = path.resolve().name
    config = migrate_config(found, schema=run.record.schema) if (found := mapping_in(run.config_path)) else {}
    return Compared(str(path), name, f"run of {_configuration(run)}", run.record, run.matrix(), config, run)


def _configuration(run: RunFolder) -> str:
    """Digest of all that runs of one group have in common.

    A run that was started from Python has no configuration, so nothing tells what it shares with others: it
    stands alone.
    """
    record = run.record
    config = mapping_in(run.config_path)
    if not config:
        return str(run.path.resolve())
    conditions = record.conditions
    plain: dict[str, Any] = {
        "config": {
            **migrate_config(config, schema=record.schema),
            "seed_everything": None,
            "start_from": None,
        },
        "start_from": _origin(record),
        "backbone": conditions.backbone,
        "encoders": {name: encoder["digest"] for name, encoder in conditions.encoders.items()},
        "data": conditions.data,
        "versions": conditions.versions,
    }
    return config_digest(plain, ignore=[f"config.{key}" for key in OF_THE_MACHINE])


def _origin(record: RunRecord) -> list[Any]:
    """What a run started from, without its seed; where that run is gone, a digest that has the seed too."""
    source = record.start_from
    if source is None:
        return []
    if not (Path(source["path"]) / RECORD).is_file():
        return [source["config_digest"], len(source["plans"])]
    return [_configuration(RunFolder.open(source["path"])), len(source["plans"])]


def _name(members: Sequence[Compared]) -> str:
    """What a group is called: `SeqLoRA` for the folders SeqLoRA-0 and SeqLoRA-1."""
    first = members[0]
    method = first.record.method
    if first.sweep_group:
        return first.sweep_group
    stems = {re.sub(rf"[-_.]?(seed)?[-_.]?{run.seed}$", "", run.name) for run in members}
    if len(members) == 1:
        name = first.name
    elif len(stems) == 1 and "" not in stems:
        name = stems.pop()
    else:
        name = f"{first.name} and {len(members) - 1} more"
    return name if _folded(method) in _folded(name) else f"{name} ({method})"


def _folded(name: str) -> str:
    """A name without case and punctuation: `prog_lora_static` names ProgLoRAStatic."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
