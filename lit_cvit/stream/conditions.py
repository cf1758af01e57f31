"""The conditions of a run: what is recorded of them, and whether it is opened again under the same ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lit_cvit.data.image_digest import image_digest
from lit_cvit.data.tasks import Benchmark, SampleSource, Task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import TINY, Change, Conditions, RunFolder, changes, in_words, kinds_of

_PRECISION, _DTYPE = "trainer.precision", "model.backbone.dtype"
OF_COMPUTATION = (_PRECISION, _DTYPE)
"""Settings that round answers but give tensors no other meaning: `start_from` allows others."""


def meaning(method: ContinualMethod, precision: str) -> dict[str, Any]:
    """The settings that give a method's tensors their meaning, and round its answers, by dotted name.

    Args:
        method: The method as configured.
        precision: The trainer's.
    """
    return {
        **{f"model.{name}": value for name, value in method.recorded_settings().items()},
        **_of_backbone(method),
        _PRECISION: precision,
    }


def scoring(task: Task) -> dict[str, Any]:
    """How the answers to a task are made and scored, whatever its benchmark takes that from."""
    return {
        "answer_format": str(task.answer_format),
        "scorer": task.scorer.name,
        "further scorers": [scorer.name for scorer in task.also],
        "max_new_tokens": task.decoding_budget,
    }


def versions_of(method: ContinualMethod, benchmark: Benchmark | None) -> dict[str, int]:
    """Versions of what ships with lit_cvit and changes, as far as a run uses it.

    Args:
        method: The method as configured.
        benchmark: The benchmark, if its samples are read.
    """
    found = {TINY: method.backbone.version}
    if benchmark is not None:
        found[benchmark.name] = benchmark.version
    return {name: version for name, version in found.items() if version}


def images_of(splits: Mapping[str, SampleSource]) -> dict[str, dict[str, str]]:
    """`image_digest` of those splits that have image files, by name."""
    found = {name: image_digest(split) for name, split in splits.items()}
    return {name: digest for name, digest in found.items() if digest}


@dataclass(frozen=True)
class Reading:
    """What a verb reads of a run, and so has to find as it was.

    Attributes:
        tasks: Tasks of the run whose test samples are read.
        scored: Whether their answers are scored as well.
        benchmark: The run's benchmark, whose version counts where samples are read.
        tuned: Whether the method's tensors are used, and not the backbone alone.
    """

    tasks: Collection[Task] = ()
    scored: bool = False
    benchmark: Benchmark | None = None
    tuned: bool = True


def conditions_now(method: ContinualMethod, precision: str, reading: Reading) -> Conditions:
    """The conditions of what a verb reads, as they are now; no weights are read.

    Args:
        method: The method as configured.
        precision: The trainer's.
        reading: What is read.
    """
    splits = {task.name: task.test for task in reading.tasks}
    needed = replace(method.access, encoders=method.encoders_at_test if reading.tuned else ())
    of_backbone = {**_of_backbone(method), _PRECISION: precision}
    return Conditions(
        versions=versions_of(method, reading.benchmark if reading.tasks else None),
        backbone=method.backbone.describe()["digest"],
        encoders=needed.encoder_records(),
        settings=meaning(method, precision) if reading.tuned else of_backbone,
        data={name: split.digest() for name, split in splits.items()},
        images=images_of(splits),
        scoring={task.name: scoring(task) for task in reading.tasks} if reading.scored else {},
    )


def require_same(run: RunFolder, now: Conditions, allowed: Collection[str]) -> tuple[Change, ...]:
    """Refuse a run that is opened under other conditions than it was trained under.

    Args:
        run: The run.
        now: The conditions now.
        allowed: Kinds of changes that are wanted.

    Returns:
        The changes, which all are allowed.

    Raises:
        ValueError: something else changed; names it with what it was and what it is, and the remedy.
    """
    found = changes(run.record.conditions, now)
    refused = [change for change in found if change.kind not in allowed]
    if refused:
        kinds = " ".join(kinds_of(found))
        raise ValueError(
            f"{run.path} was trained under other conditions: {in_words(refused)}. Put back what it was "
            f"trained with ({run.config_path} names it); only `test --allow_changes {kinds}` goes on under "
            "other conditions, and records them"
        )
    return tuple(found)


def _of_backbone(method: ContinualMethod) -> dict[str, Any]:
    backbone = method.backbone
    own = {f"model.backbone.{name}": value for name, value in backbone.recorded_settings().items()}
    return {"model.backbone": type(backbone).__name__, **own}
