"""The results of a run as one small JSON, readable without its folder: no tensors, no paths of a machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lit_cvit.report.summary import run_summary
from lit_cvit.report.tables import spread
from lit_cvit.run import RunFolder, ScoreMatrix, Writer, read_json

RESULT_SCHEMA = 1
MEASURED = "measured"
"""Key of a run record's facts with what was measured of the process that ended it."""
_MEASURED = ("seconds", "peak_memory", "accelerator_memory", "commit")
# What a run's record holds beside them is of its own folder or machine.
_NOT_OF_THE_RESULT = ("schema", "stages", "start_from", "created")


@dataclass(frozen=True)
class Result:
    """What a cell of a sweep left.

    Attributes:
        sweep: Name of the sweep.
        name: Name of the cell.
        group: What the cells that differ in their seed alone have in common.
        seed: Seed of the run.
        start_from: Name of the cell that it started from, or None.
        run: The run's record: method, benchmark, stream, backbone, digests of the data, versions, machine ...
        config: The resolved configuration.
        stages: By stage its number, task, seconds by activity and facts (steps, parameter counts).
        matrix: Scores by stage and task, with MIF and further scores.
        downstream: The same for the downstream tasks.
        metrics: The summary metrics of the matrix; None where one is not defined.
        measured: Of the process that ended the run: `seconds`, `peak_memory` and `accelerator_memory` in
            bytes, and the `commit` of the code; None where it was not measured.
    """

    sweep: str
    name: str
    group: str
    seed: int
    start_from: str | None
    run: dict[str, Any]
    config: dict[str, Any]
    stages: list[dict[str, Any]]
    matrix: ScoreMatrix
    downstream: ScoreMatrix
    metrics: dict[str, float | None]
    measured: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The results as plain JSON, the schema version first."""
        matrices = {"matrix": self.matrix.to_json(), "downstream": self.downstream.to_json()}
        return {"schema": RESULT_SCHEMA, **asdict(self), **matrices}

    @classmethod
    def from_json(cls, value: Any, *, source: Path) -> Result:
        """Read what `to_json` gave.

        Raises:
            ValueError: the schema is another one, a key is missing or unknown, a value has a wrong type, a
                matrix has the wrong shape, or a path of a machine is in it; names `source` and the key.
        """
        schema = value.get("schema") if isinstance(value, Mapping) else None
        if schema != RESULT_SCHEMA:
            raise ValueError(
                f"{source}: schema is {schema!r}; this version of lit_cvit reads {RESULT_SCHEMA}"
            )
        found = {key: item for key, item in value.items() if key != "schema"}
        names = [each.name for each in fields(cls)]
        odd = sorted(found.keys() ^ set(names))
        if odd:
            state = "is missing" if odd[0] in names else "is unknown"
            raise ValueError(f"{source}: the key {odd[0]} {state}")
        for key, kinds in _KINDS.items():
            if not isinstance(found[key], kinds):
                raise ValueError(f"{source}: {key} is {found[key]!r:.60}, of the wrong type")
        where = _path_in(found, "")
        if where:
            raise ValueError(f"{source}: {where} is a path of one machine")
        for key in ("matrix", "downstream"):
            found[key] = _checked(ScoreMatrix.from_json(found[key], source=source), f"{source}: {key}")
        return cls(**found)

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluation over all stages."""
        return sum(sum(stage["seconds"].values()) for stage in self.stages)


Groups = dict[str, list[Result]]
"""Results of the cells that differ in their seed alone, by name."""
Value = Callable[[Result], float | None]
"""What is read off a result; None where it has no such value."""


def summary_metric(name: str) -> Value:
    """A summary metric of the matrix; None where it is not defined."""
    return lambda result: run_summary(result.matrix).get(name)


def over_seeds(results: Sequence[Result], value: Value) -> str:
    """Mean and standard deviation over seeds; empty where a run lacks the value."""
    return spread([value(result) for result in sorted(results, key=lambda each: each.seed)])


_KINDS: dict[str, type | tuple[type, ...]] = {
    "sweep": str,
    "name": str,
    "group": str,
    "seed": int,
    "start_from": (str, type(None)),
    **dict.fromkeys(("run", "config", "metrics", "measured"), dict),
    "stages": list,
}


def result_of(
    run: RunFolder, *, sweep: str, name: str, group: str, config: Mapping[str, Any], start_from: str | None
) -> Result:
    """The results of a finished run.

    Args:
        run: Its folder.
        sweep: Name of the sweep.
        name: Name of the cell.
        group: What the cells that differ in their seed alone have in common.
        config: The resolved configuration.
        start_from: Name of the cell that it started from, if any.

    Raises:
        ValueError: nothing was scored.
    """
    record = run.record.to_json()
    facts = dict(record["facts"])
    measured = facts.pop(MEASURED, {})
    of_run = {key: value for key, value in record.items() if key not in _NOT_OF_THE_RESULT}
    stages = [
        {key: stage[key] for key in ("stage", "task", "seconds", "facts")} for stage in record["stages"]
    ]
    matrix = run.matrix()
    return Result(
        sweep=sweep,
        name=name,
        group=group,
        seed=run.record.seed,
        start_from=start_from,
        run=portable({**of_run, "facts": facts}),
        config=portable({**config, "start_from": None}),
        stages=portable(stages),
        matrix=matrix,
        downstream=run.downstream(),
        metrics=_defined(run_summary(matrix)),
        measured={key: measured.get(key) for key in _MEASURED},
    )


def write_result(path: Path, result: Result) -> None:
    """Write results, whole or not at all; equal results give equal bytes."""
    Writer().write_json(path, result.to_json())


def read_result(path: Path) -> Result:
    """Read one cell's results.

    Raises:
        ValueError: the file is missing, no JSON, or not what `Result.from_json` takes; names it.
    """
    return Result.from_json(read_json(path), source=path)


def read_results(folder: Path) -> list[Result]:
    """The results of a sweep in the order of their names; none where there is no such folder.

    Raises:
        ValueError: a file is not valid, or is not named as its cell; names it.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        if result.name != path.stem:
            raise ValueError(f"{path} holds the results of {result.name}")
        found.append(result)
    return found


def portable(value: Any) -> Any:
    """Plain values without paths of this machine: below the current folder relative, else the last part."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str) and _is_path(value):
        path = Path(value)
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else f".../{path.name}"
    return value


def _is_path(text: str) -> bool:
    return (os.path.isabs(text) or text.startswith("~")) and len(text) > 1 and "\n" not in text


def _path_in(value: Any, where: str) -> str:
    """The place of the first path of a machine; empty where there is none."""
    if isinstance(value, str):
        return where if _is_path(value) else ""
    items: Any = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    return next((found for key, item in items if (found := _path_in(item, f"{where}.{key}".lstrip(".")))), "")


def _defined(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _checked(matrix: ScoreMatrix, place: str) -> ScoreMatrix:
    shape = (len(matrix.stages), len(matrix.tasks))
    for name, cells in {"scores": matrix.scores, "mif": matrix.mif, **matrix.also}.items():
        if len(cells) != shape[0] or any(len(row) != shape[1] for row in cells):
            raise ValueError(f"{place}: {name} is not of {shape[0]} stages and {shape[1]} tasks")
        if any(not isinstance(cell, int | float | None) for row in cells for cell in row):
            raise ValueError(f"{place}: {name} holds something else than numbers")
    return matrix
