"""The run folder: its layout, and the stages in it.

A stage counts as trained once its manifest, written last, is in place and matches its files; the word in
`run.json` follows the files when a process died between the two.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_cvit.run.answers import AnswerJournal
from lit_cvit.run.digest import file_digest
from lit_cvit.run.files import read_json, read_jsonl, read_tensors
from lit_cvit.run.naming import file_name, nearest_run, new_folder, runs_below
from lit_cvit.run.record import RunRecord, StageRecord, Status
from lit_cvit.run.scores import ScoreMatrix, StageScores
from lit_cvit.run.stages import (
    ANSWERS,
    MANIFEST,
    PREDICTIONS,
    SCORES,
    StageState,
    discard_stage,
    read_stage,
    remove_state,
    stage_problem,
    write_stage,
)
from lit_cvit.run.state import check_plain
from lit_cvit.run.writer import Writer

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "run.json"
_VALUES = "values"


class RunFolder:
    """One run's folder; made by `create` or `open`.

    Attributes:
        path: The folder.
        record: The content of `run.json`; call `save_record` after changing it.
        writer: The writer of all its files.
        damage: The stage whose files were changed or lost since they were stored, and how; empty usually.
    """

    def __init__(self, path: Path, record: RunRecord, writer: Writer) -> None:
        self.path = path
        self.record = record
        self.writer = writer
        self.damage = ""

    @classmethod
    def create(
        cls,
        root: Path | str,
        name: str,
        config_text: str,
        *,
        record: RunRecord,
        writer: Writer | None = None,
        lock: bool = False,
    ) -> RunFolder:
        """Make a new run folder; an existing one is never touched, the new one gets the suffix -2, -3 ...

        Only rank 0 creates; the others `open` the path it got, with a writer that is not enabled.

        Args:
            root: Folder of the runs; made if missing.
            name: Name of the run.
            config_text: The resolved configuration as YAML.
            record: What is known about the run so far.
            writer: Writer to use; a plain one by default.
            lock: Whether the writer locks the folder before anything is in it.

        Raises:
            ValueError: the name is not a plain folder name.
        """
        writer = writer or Writer()
        assert writer.enabled, "only rank 0 creates a run folder"
        if name != file_name(name):
            raise ValueError(f"run name {name!r} is not a folder name; for example {file_name(name)!r} is")
        path = new_folder(Path(root), name)
        run = cls(path, record, writer)
        if lock:
            writer.lock(path)
        try:
            writer.write_text(run.config_path, config_text)
            run.save_record()
        except BaseException:
            writer.unlock()
            raise
        return run

    @classmethod
    def open(cls, path: Path | str, *, writer: Writer | None = None, verify: bool = False) -> RunFolder:
        """Open an existing run folder, to read it or to go on.

        A stage whose files are not valid does not count, nor do the stages after it: they are `planned`
        again, with a warning.

        Args:
            path: The folder.
            writer: Writer to use; a plain one by default.
            verify: Compare the checksum of every stage's files, as a resume should; else only their sizes.

        Raises:
            ValueError: the folder is missing, is not a run folder, is damaged, or was written by a newer
                version; says which.
        """
        path = Path(path)
        if not path.is_dir():
            raise ValueError(f"no run folder {path}{nearest_run(path, marker=RECORD)}")
        if not (path / RECORD).is_file():
            raise ValueError(
                f"{path} is not a run folder: it has no {RECORD}{runs_below(path, marker=RECORD)}"
            )
        record = RunRecord.from_json(read_json(path / RECORD), source=path / RECORD)
        run = cls(path, record, writer or Writer())
        if not run.config_path.is_file():
            raise ValueError(f"{path} is not a whole run folder: it has no {run.config_path.name}")
        run._follow_files(verify=verify)
        return run

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def log_path(self) -> Path:
        """Losses, rates and times by step, as JSON lines."""
        return self.path / "log.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint inside a stage."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def report_path(self) -> Path:
        """Folder of tables and figures."""
        return self.path / "report"

    def analysis_path(self, name: str) -> Path:
        """Folder of what an analysis wrote, for example `analysis/cka`."""
        return self.path / "analysis" / name

    def stage_folder(self, stage: int, task: str | None = None) -> Path:
        """Folder of a stage, for example `stages/01-ScienceQA`; the task of a known stage may be left out.

        Raises:
            ValueError: the stage is unknown and no task is given.
        """
        return self.path / "stages" / f"{stage:02d}-{file_name(task or self.record.stage(stage).task)}"

    def predictions_path(self, stage: int, task: str) -> Path:
        """Predictions of a task at a stage: JSON lines."""
        return self.stage_folder(stage) / PREDICTIONS / f"{file_name(task)}.jsonl"

    def write_predictions(self, stage: int, task: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the predictions of a task at a stage as JSON lines, whole or not at all."""
        self.writer.write_lines(self.predictions_path(stage, task), rows)

    def journal(self, stage: int, task: str) -> AnswerJournal:
        """The answers of a task that is being answered at a stage."""
        path = self.stage_folder(stage) / ANSWERS / f"{file_name(task)}.jsonl"
        return AnswerJournal(self.writer, path)

    def measurement(self, name: str) -> Tensor | None:
        """What was measured of the run's data and saved under a name, or None.

        A damaged file does not count, with a warning: what it held can be measured again.
        """
        path = self._measurement_path(name)
        if not path.is_file():
            return None
        try:
            return read_tensors(path)[_VALUES]
        except ValueError as error:
            warnings.warn(f"{error}; it is measured again", stacklevel=2)
            return None

    def save_measurement(self, name: str, values: Tensor) -> None:
        """Save what was measured of the run's data; the name has to hold the digest of what decides it."""
        self.writer.write_tensors(self._measurement_path(name), {_VALUES: values})

    def _measurement_path(self, name: str) -> Path:
        return self.path / "measurements" / f"{name}.safetensors"

    def save_record(self) -> None:
        """Write `run.json`."""
        self.writer.write_json(self.path / RECORD, self.record.to_json())

    def log(self, values: Mapping[str, object]) -> None:
        """Append one line to the log."""
        self.writer.append_line(self.log_path, values)

    def plan_stage(self, stage: int, task: str, plan: Mapping[str, Any]) -> StageRecord:
        """Record a stage and the method's plan for it, before it is trained.

        Later stages, valid or not, stood on an earlier attempt at this one and are dropped.

        Raises:
            ValueError: the stage is not the next one, is already trained, or the plan is not plain JSON.
        """
        stages = self.record.stages
        if not 1 <= stage <= len(stages) + 1:
            raise ValueError(
                f"stage {stage} cannot be planned: the next stage of {self.path} is {len(stages) + 1}"
            )
        if stage <= len(stages) and stages[stage - 1].status is not Status.PLANNED:
            raise ValueError(f"stage {stage} of {self.path} is already {stages[stage - 1].status}")
        check_plain(plan, where=f"plan of stage {stage}")
        planned = StageRecord(stage=stage, task=task, plan=dict(plan))
        self.writer.remove(self.checkpoint_path)
        for dropped in stages[stage - 1 :]:
            discard_stage(self.writer, self.stage_folder(dropped.stage))
        stages[stage - 1 :] = [planned]
        self.save_record()
        return planned

    def save_stage(
        self,
        stage: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Store a planned stage's state; the stage then counts as trained.

        Args:
            stage: Stage number, from 1.
            tensors: The method's tensors.
            state: The method's further state, plain JSON.
            extra: State of callbacks, counters and the like: plain values and tensors, nested.
            seconds: Wall time of the training.
            facts: Further facts for the record, plain JSON.

        Raises:
            ValueError: the stage is not planned, or a state holds what cannot be stored; names the place.
        """
        entry = self.record.stage(stage)
        folder = self.stage_folder(stage)
        write_stage(self.writer, folder, entry, tensors, state, extra=extra or {})
        entry.status = Status.TRAINED
        entry.facts.update(facts or {})
        if seconds is not None:
            entry.seconds["train"] = seconds
        self.save_record()
        self.writer.remove(self.checkpoint_path)

    def load_stage(self, stage: int) -> StageState:
        """Load what a stage stored, after verifying its checksums.

        Raises:
            ValueError: the stage is unknown or not trained, or a file is missing or changed; names it.
        """
        return read_stage(self.stage_folder(stage), self.record.stage(stage))

    def keep_from(self, stage: int) -> None:
        """Remove what the stages before a trained one stored of the method; their plans and scores stay.

        Raises:
            ValueError: the stage is not trained.
        """
        if stage not in self.stages_done():
            raise ValueError(f"stage {stage} of {self.path} is not trained, so those before it are needed")
        for earlier in range(1, stage):
            remove_state(self.writer, self.stage_folder(earlier))

    def stage_digest(self, stage: int) -> str:
        """Digest of a trained stage, which tells whether it was trained again since."""
        return file_digest(self.stage_folder(stage) / MANIFEST)

    def stages_done(self) -> list[int]:
        """Numbers of the stages that count as trained, from 1 without a gap."""
        return [entry.stage for entry in self.record.stages if entry.status is not Status.PLANNED]

    def save_scores(self, scores: StageScores, *, seconds: float | None = None) -> None:
        """Store scores of a trained stage, whose status becomes `evaluated`, and the matrix.

        Tasks scored earlier at the same stage are kept, unless `scores` names them again.

        Raises:
            ValueError: the stage is not trained.
        """
        entry = self.record.stage(scores.stage)
        if entry.status is Status.PLANNED:
            raise ValueError(f"stage {scores.stage} of {self.path} has scores before it is trained")
        earlier = self.scores(scores.stage)
        if earlier is not None:
            scores = replace(scores, tasks={**earlier.tasks, **scores.tasks})
        self.writer.sync()
        self.writer.write_json(self.stage_folder(scores.stage) / SCORES, scores.to_json())
        entry.status = Status.EVALUATED
        if seconds is not None:
            entry.seconds["evaluate"] = entry.seconds.get("evaluate", 0.0) + seconds
        self.save_record()
        self.write_matrix()
        for task in scores.tasks:
            self.journal(scores.stage, task).clear()

    def scores(self, stage: int) -> StageScores | None:
        """Scores of a stage, or None before it is evaluated."""
        path = self.stage_folder(stage) / SCORES
        return StageScores.from_json(read_json(path), source=path) if path.is_file() else None

    def predictions(self, stage: int, task: str) -> Iterator[dict[str, Any]]:
        """Iterate over the stored predictions of a task at a stage.

        Raises:
            ValueError: there are none; lists the tasks that have some.
        """
        path = self.predictions_path(stage, task)
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.jsonl"))) or "none"
            raise ValueError(f"{path} is missing: no predictions of task {task!r}; there are: {known}")
        return read_jsonl(path)

    def matrix(self) -> ScoreMatrix:
        """The score matrix of the stream, from the stored scores; a row per trained stage."""
        return self._matrix(self.record.stream)

    def downstream(self) -> ScoreMatrix:
        """The same for the downstream tasks."""
        return self._matrix(self.record.downstream)

    def refresh(self) -> None:
        """Write record and matrix again from what the stages hold; a resume starts with it.

        A process that dies right after a stage's manifest or scores leaves `run.json` or the matrix behind.
        """
        self.save_record()
        self.write_matrix()

    def write_matrix(self) -> None:
        """Write `matrix.json` and `matrix.csv` from the stored scores."""
        matrix = self.matrix()
        self.writer.write_json(self.path / "matrix.json", matrix.to_json())
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["stage", "task_learned", *matrix.tasks])
        for number, (learned, row) in enumerate(zip(matrix.stages, matrix.scores, strict=True), start=1):
            table.writerow([number, learned, *("" if cell is None else repr(cell) for cell in row)])
        self.writer.write_text(self.path / "matrix.csv", text.getvalue())

    def _matrix(self, tasks: list[str]) -> ScoreMatrix:
        rows = [
            (entry.task, self.scores(entry.stage))
            for entry in self.record.stages
            if entry.status is not Status.PLANNED
        ]
        return ScoreMatrix.build(rows, tasks=tasks, captions=self.record.captions)

    def _follow_files(self, *, verify: bool) -> None:
        """Bring the statuses in line with the files, which a crash or a reader's hand may have changed."""
        gap: str | None = None
        for entry in self.record.stages:
            folder = self.stage_folder(entry.stage)
            gap = gap or stage_problem(folder, checksums=verify)
            if gap is None:
                entry.status = Status.EVALUATED if (folder / SCORES).is_file() else Status.TRAINED
            elif entry.status is not Status.PLANNED:
                words = f"stage {entry.stage} ({entry.task}) of {self.path} does not count: {gap}"
                warnings.warn(words, stacklevel=3)
                self.damage = self.damage or words
                entry.status = Status.PLANNED
