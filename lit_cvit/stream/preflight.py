"""Before a run: its data is checked, method and data meet, and its conditions are recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.data.validation.report import tolerated
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import Conditions, RunFolder, RunRecord, changes, in_words, unused_gpu
from lit_cvit.stream.conditions import OF_COMPUTATION, images_of, meaning, scoring, versions_of
from lit_cvit.utils.wording import listed

if TYPE_CHECKING:
    from lit_cvit.methods.access import DataAccess

log = logging.getLogger("lit_cvit")


def check_data(method: ContinualMethod, data: ContinualDataModule, *, reports: bool) -> None:
    """Check every record, also whether the method's backbone can take it; report a GPU that is out of reach.

    Args:
        method: The method as configured; its backbone need not be loaded.
        data: Its data.
        reports: Whether this process logs what should be read though it does not prevent training.

    Raises:
        BenchmarkError: something is wrong; lists it.
        ValueError: the tasks are to be learned in runs of their own.
    """
    if data.isolated:
        raise ValueError(
            "data.isolated: a run learns its tasks one after the other. `python -m lit_cvit fit` makes a run "
            "for each; from Python give ContinualDataModule(tasks=[...]) one task, in a sweep write "
            f"grid: {{data.tasks: {[[task.name] for task in data.stream]}}}"
        )
    found = data.check(encoder=method.backbone.encoder)
    warnings = [f"{report.task}: {warning}" for report in found for warning in report.warnings]
    for line in (unused_gpu(), tolerated(found), *warnings):
        if reports and line:
            log.warning(line)


def require_callbacks(method: ContinualMethod, callbacks: Sequence[Callback]) -> None:
    """Check that the callbacks a method needs are there; a subclass of one satisfies it.

    Raises:
        ValueError: one is missing; names it.
    """
    names = [type(callback).__name__ for callback in callbacks]
    families = {family.__name__ for callback in callbacks for family in type(callback).__mro__}
    for required in method.requires_callbacks:
        if required not in families:
            raise ValueError(
                f"{type(method).__name__} as configured needs the callback {required}; add it under "
                f"trainer.callbacks, where there is {listed(names) or 'none'}"
            )


def introduce(method: ContinualMethod, data: ContinualDataModule) -> None:
    """Let method and data meet: the data gets the encoder, and hides what the method does not declare."""
    data.attach(
        method.backbone.encoder,
        hidden_in_training=method.access.hidden(test=False),
        hidden_at_test=method.access.hidden(test=True),
    )
    method.set_tasks((*data.stream, *data.downstream))


def describe(
    method: ContinualMethod,
    data: ContinualDataModule,
    stages: Sequence[Stage],
    *,
    access: DataAccess,
    seed: int,
    precision: str,
    config_digest: str,
    world_size: int,
    start_from: str | None,
) -> RunRecord:
    """The conditions of a run that is about to begin.

    Raises:
        ValueError: the run to start from does not fit; says how.
    """
    tasks = (*data.stream, *data.downstream)
    splits = {task.name: task.test for task in tasks}
    splits |= {f"{s.task.name} train": s.task.train for s in stages if s.task.train}
    backbone, settings = method.backbone.describe(), meaning(method, precision)
    encoders = access.encoder_records()
    ours = Conditions(
        versions=versions_of(method, None),
        backbone=backbone["digest"],
        encoders=encoders,
        settings=settings,
    )
    return RunRecord(
        seed=seed,
        config_digest=config_digest,
        method=type(method).__name__,
        benchmark=data.benchmark.name,
        stream=[task.name for task in data.stream],
        downstream=[task.name for task in data.downstream],
        captions=[task.name for task in tasks if task.is_caption],
        miniature=data.benchmark.miniature,
        content_versions=versions_of(method, data.benchmark),
        num_stages=len(stages),
        backbone=backbone,
        data={name: split.digest() for name, split in splits.items()},
        images=images_of(splits),
        scoring={task.name: scoring(task) for task in tasks},
        settings=settings,
        world_size=world_size,
        start_from=None if start_from is None else _source_record(method, ours, start_from),
        facts={"access": access.words(), "encoders": encoders},
    )


def _source_record(method: ContinualMethod, ours: Conditions, start_from: str) -> dict[str, Any]:
    source = RunFolder.open(start_from, verify=True)
    done = source.stages_done()
    if not done:
        raise ValueError(f"--start_from {start_from}: that run has no trained stage to start from")
    if source.record.method != (name := type(method).__name__):
        raise ValueError(
            f"--start_from {start_from}: the method of that run is {source.record.method}, not {name}"
        )
    meant = {name: value for name, value in ours.settings.items() if name not in OF_COMPUTATION}
    ours = replace(ours, settings=meant)
    if found := changes(source.record.conditions, ours):
        raise ValueError(
            f"--start_from {start_from}: its tensors would mean something else here: {in_words(found)}. Give "
            f"this run what that one was trained with ({source.config_path} has it)"
        )
    earlier = source.record.start_from
    plans = [source.record.stage(number).plan for number in done]
    return {
        "path": str(Path(start_from).resolve()),
        "config_digest": source.record.config_digest,
        "plans": [*(earlier["plans"] if earlier else []), *plans],
        "stage": done[-1],
        "digest": source.stage_digest(done[-1]),
    }
