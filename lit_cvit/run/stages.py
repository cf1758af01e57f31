"""The files of one stage: written with a manifest of checksums last, and believed only with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cvit.run.digest import file_digest
from lit_cvit.run.files import read_json, read_tensors
from lit_cvit.run.migration import SCHEMA_VERSION
from lit_cvit.run.record import StageRecord
from lit_cvit.run.state import check_plain, pack, unpack
from lit_cvit.run.writer import Writer

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST, SCORES, PREDICTIONS, ANSWERS = "manifest.json", "scores.json", "predictions", "answers"
_TENSORS, _STATE = "method.safetensors", "method.json"
_EXTRA_TENSORS, _EXTRA = "extra.safetensors", "extra.json"


@dataclass(frozen=True)
class StageState:
    """What a stage stored.

    Attributes:
        stage: Stage number, from 1.
        task: Task learned.
        plan: The method's plan for the stage.
        tensors: The method's tensors, on the CPU.
        state: The method's further state, plain JSON.
        extra: State of callbacks, counters and the like, as it was given.
    """

    stage: int
    task: str
    plan: dict[str, Any]
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    extra: dict[str, Any]


def write_stage(
    writer: Writer,
    folder: Path,
    entry: StageRecord,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    extra: Mapping[str, Any],
) -> None:
    """Write a stage's files over whatever an earlier attempt left, the manifest last.

    Raises:
        ValueError: a state holds what cannot be stored; names the place. Nothing is written then.
        OSError: as for `Writer.write_with`; the stage does not count then.
    """
    check_plain(state, where=_STATE)
    extra_plain, extra_tensors = pack(extra, where="extra")
    discard_stage(writer, folder)
    writer.write_tensors(folder / _TENSORS, tensors)
    writer.write_json(folder / _STATE, state)
    names = [_TENSORS, _STATE]
    if extra:
        writer.write_tensors(folder / _EXTRA_TENSORS, extra_tensors)
        writer.write_json(folder / _EXTRA, extra_plain)
        names += [_EXTRA_TENSORS, _EXTRA]
    if writer.enabled:
        files = {
            name: {"sha256": file_digest(folder / name), "bytes": (folder / name).stat().st_size}
            for name in names
        }
        manifest = {"schema": SCHEMA_VERSION, "stage": entry.stage, "task": entry.task, "files": files}
        writer.write_json(folder / MANIFEST, manifest)


def read_stage(folder: Path, entry: StageRecord) -> StageState:
    """Read a stage's files after verifying their checksums.

    Raises:
        ValueError: the manifest or a file is missing or changed, what was stored is removed, or a tensor is
            not finite; names it.
    """
    problem = stage_problem(folder, checksums=True)
    if not problem and not read_json(folder / MANIFEST)["files"]:
        problem = "what it stored was removed for that of the next stage, as trainer.keep_stages: last asks"
    if problem:
        raise ValueError(f"stage {entry.stage} ({entry.task}) cannot be loaded: {problem}")
    from lit_cvit.utils.finite import require_finite

    tensors = read_tensors(folder / _TENSORS)
    fix = "that stage's training went wrong; train it again in a new run, with a lower learning rate"
    require_finite(tensors, place=f"stage {entry.stage} ({entry.task}), {folder / _TENSORS}", fix=fix)
    extra = {}
    if (folder / _EXTRA).is_file():
        extra = unpack(read_json(folder / _EXTRA), read_tensors(folder / _EXTRA_TENSORS))
    return StageState(
        stage=entry.stage,
        task=entry.task,
        plan=entry.plan,
        tensors=tensors,
        state=read_json(folder / _STATE),
        extra=extra,
    )


def stage_problem(folder: Path, *, checksums: bool) -> str | None:
    """Why a stage's files are not valid, or None.

    Args:
        folder: The stage's folder.
        checksums: Compare the content of every file, not only its size.
    """
    if not (folder / MANIFEST).is_file():
        return f"{folder / MANIFEST} is missing, so the stage was not trained to its end"
    files: dict[str, dict[str, Any]] = read_json(folder / MANIFEST)["files"]
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != facts["bytes"] or (checksums and file_digest(path) != facts["sha256"]):
            return f"{path} does not match its checksum in {MANIFEST}: it was changed or damaged"
    return None


def remove_state(writer: Writer, folder: Path) -> None:
    """Remove what a trained stage stored of the method; it still counts as trained, its scores stay.

    The manifest is first, so that a crash leaves files that nobody asks for, never a stage without its files.
    """
    if not writer.enabled:
        return
    manifest = read_json(folder / MANIFEST)
    if manifest["files"]:
        writer.write_json(folder / MANIFEST, {**manifest, "files": {}})
    for name in (_TENSORS, _STATE, _EXTRA_TENSORS, _EXTRA):
        writer.remove(folder / name)


def discard_stage(writer: Writer, folder: Path) -> None:
    """Remove what an attempt at a stage left; the manifest goes first, scores belong to other weights."""
    for name in (MANIFEST, SCORES, _EXTRA, _EXTRA_TENSORS):
        writer.remove(folder / name)
    for kind in (PREDICTIONS, ANSWERS):
        for path in sorted((folder / kind).glob("*.jsonl")):
            writer.remove(path)
