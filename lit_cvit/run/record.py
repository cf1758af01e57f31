"""What `run.json` says about a run: its conditions, and its stages with status, plan and timings."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_cvit.run.conditions import TINY, Conditions, changes, in_words
from lit_cvit.run.environment import describe_machine, package_versions
from lit_cvit.run.migration import SCHEMA_VERSION, migrate_record


class Status(enum.StrEnum):
    """How far a stage is; `trained` and `evaluated` are backed by files, not only by this word."""

    PLANNED = "planned"
    TRAINED = "trained"
    EVALUATED = "evaluated"


@dataclass
class StageRecord:
    """One stage in `run.json`.

    Attributes:
        stage: Stage number, from 1.
        task: Name of the task it learns.
        status: How far it is.
        plan: The method's plan for it, plain JSON; loading grows the model from the plans in order.
        seconds: Wall time by activity, for example `train` and `evaluate`.
        facts: Anything else worth keeping, plain JSON (steps, samples, peak memory ...).
    """

    stage: int
    task: str
    status: Status = Status.PLANNED
    plan: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunRecord:
    """The content of `run.json`; plain JSON throughout.

    Attributes:
        seed: Seed of the run.
        config_digest: `config_digest` of the resolved configuration.
        method: Short name of the method.
        benchmark: Name of the benchmark.
        stream: Task names in the order of the stream: the columns of the matrix.
        downstream: Held-out tasks that the run tests at its end.
        captions: Tasks whose score is a caption metric; averages are also given without them.
        miniature: Whether the benchmark is a miniature; tables and figures then say so.
        content_versions: Version of the miniature, and of `tiny`, if the run used them.
        num_stages: Stages that the run will have (one for joint training).
        backbone: Name, `digest` and source of the backbone.
        data: Digest of every task's samples, by task name; those of its training split under `GQA train`.
        images: `root` and `digest` of the images of a split, by the same names.
        scoring: Answer format, scorers and decoding budget, by task.
        settings: Settings that give the method's tensors their meaning, by dotted name (`model.alpha`).
        world_size: Number of ranks.
        start_from: The run this one continues (`path`, `config_digest`, `plans`, `stage` that it continues
            and `digest` of that), or None.
        facts: Anything else worth keeping (skipped samples, where encoders came from ...).
        versions: Package versions.
        machine: System, processors, accelerators, Python.
        created: UTC time of creation, ISO 8601.
        stages: The stages so far.
        schema: Version of the layout that the run was made in; fields of an earlier one are read as this
            version names them.
    """

    seed: int
    config_digest: str
    method: str = ""
    benchmark: str = ""
    stream: list[str] = field(default_factory=list)
    downstream: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    miniature: bool = False
    content_versions: dict[str, int] = field(default_factory=dict)
    num_stages: int = 0
    backbone: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    scoring: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1
    start_from: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=package_versions)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    stages: list[StageRecord] = field(default_factory=list)
    schema: int = SCHEMA_VERSION

    @property
    def conditions(self) -> Conditions:
        """What decided the run's numbers, as far as its version recorded it."""
        names = {"class": "model.backbone", **{n: f"model.backbone.{n}" for n in ("quantization", "dtype")}}
        of_backbone = {name: self.backbone[key] for key, name in names.items() if key in self.backbone}
        # A record that names no version is of the time before there were any.
        first = {self.benchmark: 1} if self.miniature else {}
        first |= {TINY: 1} if self.backbone.get("source") == "shipped" else {}
        return Conditions(
            versions={**first, **self.content_versions},
            backbone=self.backbone.get("digest", ""),
            encoders=self.facts.get("encoders", {}),
            settings={**of_backbone, **self.settings},
            data=self.data,
            images=self.images,
            scoring=self.scoring,
        )

    def stage(self, number: int) -> StageRecord:
        """The record of stage `number`.

        Raises:
            ValueError: the run has no such stage yet.
        """
        if not 1 <= number <= len(self.stages):
            raise ValueError(f"stage {number} is not in the run; it has stages 1 to {len(self.stages)}")
        return self.stages[number - 1]

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON, the schema version first."""
        value = asdict(self)
        for stage in value["stages"]:
            stage["status"] = str(stage["status"])
        return {"schema": value.pop("schema"), **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: Path) -> RunRecord:
        """Read what `to_json` gave.

        Raises:
            ValueError: the schema is newer than this version reads, or the record is damaged; names `source`.
        """
        schema = value.get("schema") if isinstance(value, Mapping) else None
        if not isinstance(schema, int):
            raise ValueError(f"{source} has no schema version: it is not the record of a run")
        if schema > SCHEMA_VERSION:
            raise ValueError(
                f"{source} has schema version {schema}, newer than the {SCHEMA_VERSION} that this version of"
                " lit_cvit reads; update lit_cvit"
            )
        try:
            record = migrate_record(value)
            stages = [
                StageRecord(**{**stage, "status": Status(stage["status"])}) for stage in record["stages"]
            ]
            return cls(**{**record, "stages": stages})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{source} is damaged: {error}") from error

    def refuse_changes(self, current: RunRecord) -> None:
        """Check that a run may be resumed under the conditions that `current` describes.

        Raises:
            ValueError: seed, world size, tasks, data, scoring, backbone, encoders or settings differ; names
                each with what it was and what it is.
        """
        reasons = []
        if self.world_size != current.world_size:
            reasons.append(f"it ran on {self.world_size} rank(s), now there are {current.world_size}")
        for what in ("seed", "stream", "downstream"):
            before, now = getattr(self, what), getattr(current, what)
            if before != now:
                reasons.append(f"the {what} was {before}, now it is {now}")
        for name in sorted(self.data.keys() ^ current.data.keys()):
            reasons.append(f"the data of {name} is {'new' if name in current.data else 'missing'}")
        found = changes(self.conditions, current.conditions)
        reasons += [in_words(found)] if found else []
        if self.config_digest != current.config_digest:
            reasons.append(f"the config digest was {self.config_digest}, now it is {current.config_digest}")
        if reasons:
            raise ValueError(
                f"the run cannot be resumed: {'; '.join(reasons)}. Put back "
                "what it was trained with, or start a fresh run under another --name"
            )
        newer = [name for name, old in self.versions.items() if current.versions.get(name) != old]
        if newer:
            warnings.warn(
                f"resuming under other versions of {', '.join(newer)}: bit-equality is not promised",
                stacklevel=2,
            )
