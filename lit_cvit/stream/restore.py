"""The folder that a run goes on in, and a method brought back to where it was after a stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import (
    OF_THE_MACHINE,
    SCHEMA_VERSION,
    RunFolder,
    RunRecord,
    StageState,
    Writer,
    config_agrees,
    config_changes,
    migrate_config,
    newest_record,
    run_records,
    usual_name,
)
from lit_cvit.utils.distributed import from_first, num_ranks, rank
from lit_cvit.utils.wording import listed
from lit_cvit.utils.yaml_file import mapping_in

log = logging.getLogger("lit_cvit")


def open_on_all_ranks(
    record: RunRecord, *, root: str, name: str | None, config_text: str, resume: bool
) -> RunFolder:
    """`open_run` by rank 0; the other ranks open the folder that it got, and never write.

    Every rank must call it at the same point.

    Raises:
        ValueError: as `open_run`, on rank 0.
        OSError: the folder cannot be made or read, where there is one rank; on several it is a ValueError.
        SystemExit: rank 0 reports why there is no folder.
    """
    path, refusal = "", ""
    if rank() == 0:
        try:
            run = open_run(record, root=root, name=name, config_text=config_text, resume=resume)
            path = str(run.path)
        except (ValueError, OSError) as error:
            if num_ranks() == 1:
                raise
            refusal = str(error)
    path, refusal = from_first((path, refusal))
    if refusal:
        # The same line from every rank would bury it.
        raise ValueError(refusal) if rank() == 0 else SystemExit(1)
    return run if rank() == 0 else RunFolder.open(path, writer=Writer(enabled=False))


def open_run(record: RunRecord, *, root: str, name: str | None, config_text: str, resume: bool) -> RunFolder:
    """The newest run of this configuration (and name, if there is one) to go on with, or a new folder.

    The folder is locked until `run.writer.unlock()`.

    Raises:
        ValueError: the run that would be resumed was made under other conditions, or by an earlier version,
            or another living process writes it.
    """
    usual = usual_name(record.method, record.benchmark)
    if resume:
        newest = newest_record(root, record.config_digest, name=name)
        if newest is None or newest[1].schema < SCHEMA_VERSION:
            _refuse_older(root, name, config_text, record.config_digest)
        if newest is not None:
            return _resumed(newest[0], record)
        which = f"no run of this configuration called {name}" if name else "no run of this configuration"
        other = _other_configuration(root, name or usual, config_text)
        log.warning("--ckpt_path last: %s in %s; starting fresh%s", which, root, other)
    return RunFolder.create(root, name or usual, config_text, record=record, lock=True)


def _resumed(path: Path, record: RunRecord) -> RunFolder:
    """Lock a run, and only then look at what it holds, which its last writer may just have changed."""
    writer = Writer()
    writer.lock(path)
    try:
        found = RunFolder.open(path, writer=writer, verify=True)
        if found.record.method != record.method:
            raise ValueError(f"{found.path} is a run of {found.record.method}, not of {record.method}")
        found.record.refuse_changes(record)
        found.refresh()
        writer.clear_leftovers(path)
    except BaseException:
        writer.unlock()
        raise
    log.info("resuming %s after stage %d", path, max(found.stages_done(), default=0))
    return found


def _refuse_older(root: str, name: str | None, config_text: str, config_digest: str) -> None:
    """Refuse to resume, or to start afresh beside, a run of this configuration by an earlier version."""
    now = yaml.safe_load(config_text) or {}
    for path, record in run_records(root, name=name):
        if record.schema >= SCHEMA_VERSION:
            continue
        older = mapping_in(path / "config.yaml")
        # A run that was started from Python has no configuration.
        agrees = older and config_agrees(
            migrate_config(older, schema=record.schema), now, ignore=OF_THE_MACHINE
        )
        if agrees or record.config_digest == config_digest:
            raise ValueError(
                f"--ckpt_path last: {path} is a run of this configuration by an earlier version of lit_cvit "
                f"({record.versions.get('lit_cvit')}, schema version {record.schema}, now {SCHEMA_VERSION}), "
                "which cannot be resumed: the order of samples and the state in a stage may differ. Finish "
                f"it with that version, continue from its last stage with --start_from {path}, or start a "
                "fresh run under another --name. `test`, `predict` and `analyze` load it"
            )


def _other_configuration(root: str, name: str, config_text: str) -> str:
    """The end of a warning: how the newest run of that name differs (it may be meant), or nothing."""
    found = newest_record(root, None, name=name)
    if found is None:
        return ""
    changes = config_changes(mapping_in(found[0] / "config.yaml"), yaml.safe_load(config_text) or {})
    return f". {found[0]} differs in {listed(changes)}" if changes else ""


def restore_method(method: ContinualMethod, run: RunFolder, *, stage: int | None = None) -> StageState | None:
    """Bring a method to where it was after a stage of a run.

    Args:
        method: The method as configured, prepared and without any stage.
        run: The run, which may have started from another one.
        stage: Stage number; by default the last trained one.

    Returns:
        What that stage stored, or None if the run has no trained stage yet; the method is then where the run
        started from.

    Raises:
        ValueError: the stage is not trained, a stored file changed, or its tensors do not fit the method.
    """
    if stage is not None:
        require_stage(run, stage)
    last = stage if stage is not None else max(run.stages_done(), default=0)
    _follow_source(method, run)
    source = run.record.start_from
    for number in range(1, last + 1):
        method.follow_plan(run.record.stage(number).plan)
    if last:
        state = run.load_stage(last)
    elif source:
        state = _source_stage(source)
    else:
        return None
    _take_back(method, state)
    return state if last else None


def _source_stage(source: Mapping[str, Any]) -> StageState:
    """The stage that a run started from, which that run may have gone beyond, or trained again."""
    origin = RunFolder.open(source["path"], verify=True)
    # Records of earlier versions do not say which stage it was.
    stage = source.get("stage", max(origin.stages_done(), default=0))
    require_stage(origin, stage)
    state = origin.load_stage(stage)
    if source.get("digest", origin.stage_digest(stage)) != origin.stage_digest(stage):
        raise ValueError(
            f"stage {stage} of {origin.path}, from which this run started, was trained again since; start a "
            "fresh run under another --name"
        )
    return state


def require_stage(run: RunFolder, stage: int) -> None:
    """Refuse a stage that is not trained.

    Raises:
        ValueError: it is not; lists those that are.
    """
    done = run.stages_done()
    if stage not in done:
        known = ", ".join(map(str, done)) or "none"
        raise ValueError(f"stage {stage} of {run.path} is not trained; trained stages: {known}")


def restored_stages(method: ContinualMethod, run: RunFolder) -> Iterator[StageState]:
    """Take a method through the trained stages of a run: after each step it is as it was after that stage.

    The model grows from stage to stage as it did in training, so one backbone serves all stages.

    Args:
        method: The method as configured, prepared and without any stage.
        run: The run, which may have started from another one.

    Returns:
        What each stage stored, from the first on.

    Raises:
        ValueError: a stored file changed, or its tensors do not fit the method.
    """
    _follow_source(method, run)
    for number in run.stages_done():
        method.follow_plan(run.record.stage(number).plan)
        state = run.load_stage(number)
        _take_back(method, state)
        yield state


def _follow_source(method: ContinualMethod, run: RunFolder) -> None:
    source = run.record.start_from
    for plan in source["plans"] if source else ():
        method.follow_plan(plan)


def _take_back(method: ContinualMethod, state: StageState) -> None:
    method.load_tensors(state.tensors)
    method.load_method_state(state.state)
