"""Whether runs may stand in one table: what was asked of them, and how it was scored, must be the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_cvit.report.compare_inputs import Compared
from lit_cvit.run import Change, Conditions, RunRecord, changes

_DIGEST = re.compile(r"\b[0-9a-f]{32,64}\b")
_SHOWN = 8


@dataclass(frozen=True)
class Answers:
    """The answers of a run to the test samples of a task after its last stage.

    Attributes:
        ids: Sample ids, in the order of the split.
        references: Reference answers of each sample.
        scores: Score of each sample; the mean times 100 is the task's unless its scorer pools counts.
        in_form: Whether each answer has the form that was asked for.
    """

    ids: list[Any]
    references: list[Any]
    scores: list[float]
    in_form: list[float]


Predictions = Mapping[str, Answers]
"""By task; a task whose predictions are not stored is left out."""


def require_finished(run: Compared) -> None:
    """Refuse a run that has no score of some task after its last stage.

    Raises:
        ValueError: it has not; names the run and how far it is.
    """
    matrix = run.matrix
    num_stages = run.record.num_stages or len(matrix.stages)
    scored = sum(any(cell is not None for cell in row) for row in matrix.scores)
    if len(matrix.stages) < num_stages or not scored or all(cell is None for cell in matrix.scores[-1]):
        raise ValueError(
            f"{run.source} has no final scores to compare: {scored} of {num_stages} stages are scored. Go on "
            "with it by the same command and --ckpt_path last"
        )
    missing = [task for task, cell in zip(matrix.tasks, matrix.scores[-1], strict=True) if cell is None]
    if missing:
        raise ValueError(
            f"{run.source} has no score of {', '.join(missing)} after its last stage; name runs that tested "
            "every task of their stream"
        )


def require_comparable(run: Compared, first: Compared) -> None:
    """Refuse a run that was tested on other tasks or data than one before it, or scored in another way.

    What a record of an earlier version does not hold is not compared.

    Raises:
        ValueError: it was; names both runs, what differs with both values, and the remedy.
    """
    mine, theirs = run.record, first.record
    reasons = []
    if mine.benchmark != theirs.benchmark:
        reasons.append(f"its benchmark is {mine.benchmark}, not {theirs.benchmark}")
    if set(run.matrix.tasks) != set(first.matrix.tasks):
        reasons.append(f"its tasks are {', '.join(run.matrix.tasks)}, not {', '.join(first.matrix.tasks)}")
    tasks = set(mine.stream) & set(theirs.stream)
    found = changes(_tested_under(theirs, tasks), _tested_under(mine, tasks))
    _refuse(run, first, [*reasons, *map(_in_words, found)])


def require_same_test(alone: Compared, run: Compared) -> None:
    """Refuse an isolated run whose task was tested on other data, or scored in another way, than in a run.

    Raises:
        ValueError: it was; names both runs and what differs with both values.
    """
    tasks = set(alone.matrix.stages)
    found = changes(_tested_under(run.record, tasks), _tested_under(alone.record, tasks))
    _refuse(alone, run, [*map(_in_words, found)])


def require_same_samples(runs: Sequence[Compared], answered: Mapping[str, Predictions]) -> None:
    """Refuse a run whose stored predictions are of other test samples than those of a run before it.

    Args:
        runs: The runs.
        answered: The predictions of each by its `source`.

    Raises:
        ValueError: they are; names both runs, task, sample and both values.
    """
    earlier: dict[str, tuple[Compared, Answers]] = {}
    for run in runs:
        for task, mine in answered[run.source].items():
            first, theirs = earlier.setdefault(task, (run, mine))
            reason = _other_samples(task, mine, theirs)
            _refuse(run, first, [reason] if reason else [])


def final_answers(run: Compared) -> Predictions:
    """The answers of a run after its last stage, for every task whose predictions it stores.

    Raises:
        ValueError: predictions are damaged, or are not as many as were scored; names the file.
    """
    if run.run is None:
        return {}
    last = run.run.stages_done()[-1]
    scores = run.run.scores(last)
    found = {}
    for task in run.matrix.tasks:
        path = run.run.predictions_path(last, task)
        if scores is None or not path.is_file():
            continue
        rows = list(run.run.predictions(last, task))
        try:
            columns = [[row[key] for row in rows] for key in ("id", "references", "score", "format_ok")]
        except KeyError as error:
            raise ValueError(f"{path} is damaged: a row has no {error}") from error
        if len(rows) != (count := scores.tasks[task].count):
            raise ValueError(
                f"{path} holds {len(rows)} predictions, but {count} were scored: the file was changed. Put "
                "it back, or remove it to compare the run's scores alone"
            )
        ids, references, of_samples, in_form = columns
        found[task] = Answers(ids, references, [float(x) for x in of_samples], [float(x) for x in in_form])
    return found


def _tested_under(record: RunRecord, tasks: Collection[str]) -> Conditions:
    """The conditions of the tests of some tasks; what was trained with may differ."""
    whole = record.conditions
    return Conditions(
        versions=whole.versions,
        data={name: digest for name, digest in whole.data.items() if name in tasks},
        images={name: images for name, images in whole.images.items() if name in tasks},
        scoring={name: how for name, how in whole.scoring.items() if name in tasks},
    )


def _in_words(change: Change) -> str:
    """A change from the first run to another."""
    before, now = (
        _DIGEST.sub(lambda found: found[0][:_SHOWN], str(value)) for value in (change.before, change.now)
    )
    of_records = _DIGEST.fullmatch(str(change.now))
    meaning = " (digests of records, instructions and how many are used)" if of_records else ""
    return f"its {change.what} is {now}, not {before}{meaning}"


def _other_samples(task: str, mine: Answers, theirs: Answers) -> str:
    """In which way the samples of a task are others; empty where they are the same."""
    if len(mine.ids) != len(theirs.ids):
        return f"it answered {len(mine.ids)} test samples of {task}, not {len(theirs.ids)}"
    for number, (one, other) in enumerate(zip(mine.ids, theirs.ids, strict=True), start=1):
        if one != other:
            return f"its test sample {number} of {task} is {one!r}, not {other!r}"
    for sample, one, other in zip(mine.ids, mine.references, theirs.references, strict=True):
        if one != other:
            return f"its test sample {sample!r} of {task} has references {one!r:.60}, not {other!r:.60}"
    return ""


def _refuse(run: Compared, first: Compared, reasons: Sequence[str]) -> None:
    if reasons:
        raise ValueError(
            f"{run.source} cannot be compared with {first.source}: {'; '.join(reasons)}. Leave it out, or "
            f"run it again with the data and the scoring of {first.source}"
        )
