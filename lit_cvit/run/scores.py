"""Scores of a stage and the score matrix of a run, as plain values that are stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Cells = list[list[float | None]]


@dataclass(frozen=True)
class TaskScore:
    """Scores of one task at one stage.

    Attributes:
        score: Main score of the task (percent; captions: CIDEr x 100).
        count: Samples scored.
        mif: Percent of answers in the form that the instruction asks for.
        also: Further scores by scorer name, never averaged with the main one.
        seconds: Wall time of its evaluation.
    """

    score: float
    count: int
    mif: float | None = None
    also: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class StageScores:
    """What was measured after a stage: `scores.json`."""

    stage: int
    task_learned: str
    tasks: dict[str, TaskScore]

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: Path) -> StageScores:
        """Read what `to_json` gave.

        Raises:
            ValueError: a field is missing or unknown; names `source`.
        """
        try:
            tasks = {name: TaskScore(**score) for name, score in value["tasks"].items()}
            return cls(stage=value["stage"], task_learned=value["task_learned"], tasks=tasks)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{source} is not a stage's scores: {error}") from error


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores by stage (row) and task (column); None where a task was not measured.

    Attributes:
        tasks: Column names, in the order of the stream.
        captions: Those of them whose score is a caption metric.
        stages: The task learned at each stage, by row.
        scores: (stages, tasks) main scores.
        mif: (stages, tasks) percent of answers in the right form.
        also: Further scores by scorer name, each (stages, tasks).
    """

    tasks: tuple[str, ...]
    captions: tuple[str, ...]
    stages: tuple[str, ...]
    scores: Cells
    mif: Cells
    also: dict[str, Cells] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        rows: Sequence[tuple[str, StageScores | None]],
        *,
        tasks: Sequence[str],
        captions: Sequence[str] = (),
    ) -> ScoreMatrix:
        """Arrange stage scores; each row is (task learned, scores or None where nothing was measured)."""
        cells = [[None if row is None else row.tasks.get(task) for task in tasks] for _, row in rows]
        scorers = dict.fromkeys(name for row in cells for cell in row if cell for name in cell.also)
        return cls(
            tasks=tuple(tasks),
            captions=tuple(task for task in tasks if task in captions),
            stages=tuple(learned for learned, _ in rows),
            scores=[[cell.score if cell else None for cell in row] for row in cells],
            mif=[[cell.mif if cell else None for cell in row] for row in cells],
            also={
                name: [[cell.also.get(name) if cell else None for cell in row] for row in cells]
                for name in scorers
            },
        )

    def to_json(self) -> dict[str, Any]:
        """The matrix as plain JSON: `matrix.json`."""
        value = asdict(self)
        return {**value, **{name: list(value[name]) for name in ("tasks", "captions", "stages")}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: Path) -> ScoreMatrix:
        """Read what `to_json` gave.

        Raises:
            ValueError: a field is missing or unknown; names `source`.
        """
        try:
            names = {name: tuple(value[name]) for name in ("tasks", "captions", "stages")}
            return cls(**{**value, **names})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{source} is not a score matrix: {error}") from error
