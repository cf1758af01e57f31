"""ProgLoRA's forward transfer: a run beside the same method trained on each of its tasks alone.

FWT = 1/T sum_j (P[j][j] - P0[j]), where P0[j] is the score of task j in a run of that task alone. Such
isolated runs are those of `fit --data.isolated true`, or cells of a sweep with a grid over `data.tasks`. They
belong to a run if they have its seed and agree with its configuration in all but the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from lit_cvit.run import OF_THE_MACHINE, ScoreMatrix, config_agrees

FWT = "ProgLoRA FWT"
"""The metric's name in tables."""
_OF_THE_TASKS = ("tasks", "order", "isolated")


class Trained(Protocol):
    """A run as far as it matters here."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Its resolved configuration."""
        ...

    @property
    def seed(self) -> int:
        """Its seed."""
        ...

    @property
    def matrix(self) -> ScoreMatrix:
        """Its scores."""
        ...


T = TypeVar("T", bound=Trained)


def isolated_runs(run: Trained, others: Iterable[T]) -> dict[str, T]:
    """The isolated runs that belong to a run, by task.

    Raises:
        ValueError: two of them are of one task; names them.
    """
    found: dict[str, T] = {}
    for other in others:
        stages = other.matrix.stages
        if len(stages) != 1 or stages[0] not in run.matrix.tasks or not _is_same_but_tasks(run, other):
            continue
        task = stages[0]
        if task in found:
            raise ValueError(f"{other.name} and {found[task].name} both are {task} alone; name one of them")
        found[task] = other
    return found


def isolated_scores(run: Trained, found: Mapping[str, Trained]) -> list[float]:
    """P0 of a run, in the order of its tasks.

    Args:
        run: The run.
        found: Its isolated runs by task.

    Raises:
        ValueError: there is no isolated run of some task, or it has no score; names it.
    """
    missing = [task for task in run.matrix.tasks if task not in found]
    if missing:
        raise ValueError(
            f"{run.name}: forward transfer needs a run of each task alone, with its seed and configuration; "
            f"{', '.join(missing)} is missing (`fit --data.isolated true` makes them)"
        )
    return [_score(found[task], task) for task in run.matrix.tasks]


def _score(run: Trained, task: str) -> float:
    score = run.matrix.scores[0][run.matrix.tasks.index(task)]
    if score is None:
        raise ValueError(f"{run.name} has no score of {task}; go on with it by --ckpt_path last")
    return score


def _is_same_but_tasks(run: Trained, other: Trained) -> bool:
    # A run that was started from Python has no configuration, so nothing tells what it is.
    if run.seed != other.seed or not run.config or not other.config:
        return False
    return config_agrees(_without_tasks(run.config), _without_tasks(other.config), ignore=OF_THE_MACHINE)


def _without_tasks(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in config.get("data", {}).items() if key not in _OF_THE_TASKS}
    return {**config, "data": data, "seed_everything": None}
