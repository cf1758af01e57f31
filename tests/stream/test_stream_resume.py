"""A killed run, continued with `--ckpt_path last`, ends bit for bit where the uninterrupted one does."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from stream_kit import (
    KillAt,
    Killed,
    KillIn,
    Trail,
    fit,
    fragile_method,
    log_rows,
    quick_data,
    scoring,
    small_method,
    state_files,
)

from callbacks import StageEvaluation
from lit_cvit.__main__ import main
from lit_cvit.methods import SeqLoRA
from lit_cvit.run import RunFolder, Status
from lit_cvit.stream.restore import open_run

pytestmark = pytest.mark.processes

NAME = "smolora-cvit-mini"


class KillInEvaluation(StageEvaluation):
    """Ends the process when the first of a stage's two tasks is scored and its predictions are written."""

    def _count(self, num_answered: int) -> None:
        super()._count(num_answered)
        if self.asked == 10 and self.answered == 10:
            raise Killed


@pytest.fixture(scope="module")
def whole(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fit(tmp_path_factory.mktemp("whole"), fragile_method(llava_folder)).run


def killed(folder: Path, root: Path, callbacks: list[Callback]) -> RunFolder:
    with pytest.raises(Killed):
        fit(root, fragile_method(folder), callbacks=callbacks)
    return RunFolder.open(root / NAME)


@pytest.mark.parametrize(
    ("callbacks", "statuses"),
    [
        (lambda: [KillAt(1, after=True), scoring()], [Status.PLANNED]),
        (lambda: [KillAt(3, after=True), scoring()], [Status.EVALUATED, Status.PLANNED]),
        (lambda: [KillIn("on_stage_saved", 2), scoring()], [Status.EVALUATED, Status.TRAINED]),
        (lambda: [KillInEvaluation(downstream=False)], [Status.EVALUATED, Status.TRAINED]),
    ],
    ids=["training_stage_1", "training_stage_2", "saved_not_evaluated", "in_evaluation"],
)
def test_a_killed_run_ends_where_the_whole_one_does(
    llava_folder: Path,
    tmp_path: Path,
    whole: RunFolder,
    callbacks: Callable[[], list[Callback]],
    statuses: list[Status],
) -> None:
    broken = killed(llava_folder, tmp_path, callbacks())
    assert [stage.status for stage in broken.record.stages] == statuses
    resumed = fit(tmp_path, fragile_method(llava_folder), ckpt_path="last")
    assert resumed.run.path == broken.path
    assert state_files(resumed.run) == state_files(whole)
    assert log_rows(resumed.run) == log_rows(whole)
    assert resumed.global_step == 4


def test_a_run_killed_twice_ends_where_the_whole_one_does(
    llava_folder: Path, tmp_path: Path, whole: RunFolder
) -> None:
    killed(llava_folder, tmp_path, [KillAt(3, after=True), scoring()])
    callbacks: list[Callback] = [KillAt(4, after=True), scoring()]
    with pytest.raises(Killed):
        fit(tmp_path, fragile_method(llava_folder), callbacks=callbacks, ckpt_path="last")
    resumed = fit(tmp_path, fragile_method(llava_folder), ckpt_path="last")
    assert state_files(resumed.run) == state_files(whole)


def test_a_resume_runs_only_what_is_left(llava_folder: Path, tmp_path: Path) -> None:
    killed(llava_folder, tmp_path, [KillAt(3, after=True), scoring()])
    trail = Trail()
    fit(tmp_path, fragile_method(llava_folder), callbacks=[trail, scoring()], ckpt_path="last")
    assert [(hook, number, step) for hook, number, _, step in trail.seen] == [
        ("stream_start", 0, 2),
        ("start", 2, 2),
        ("end", 2, 4),
        ("saved", 2, 4),
        ("stream_end", 0, 4),
    ]


def test_a_finished_run_is_not_touched_by_a_resume(
    llava_folder: Path, tmp_path: Path, whole: RunFolder
) -> None:
    copy = Path(shutil.copytree(whole.path, tmp_path / whole.path.name))
    trail = Trail()
    resumed = fit(tmp_path, fragile_method(llava_folder), callbacks=[trail, scoring()], ckpt_path="last")
    assert [hook for hook, *_ in trail.seen] == ["stream_start", "stream_end"]
    assert resumed.run.path == copy
    assert state_files(resumed.run) == state_files(whole)


def test_only_the_newest_stage_is_scored_on_resume(llava_folder: Path, tmp_path: Path) -> None:
    """A run without evaluation, continued with it, must not score stage 1 with the weights of stage 2."""
    fit(tmp_path, fragile_method(llava_folder), callbacks=[])
    resumed = fit(tmp_path, fragile_method(llava_folder), ckpt_path="last")
    assert [[cell is not None for cell in row] for row in resumed.run.matrix().scores] == [
        [False, False],
        [True, True],
    ]


def test_last_without_any_run_starts_fresh_and_says_so(
    llava_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lit_cvit"):
        trainer = fit(tmp_path, small_method(llava_folder), callbacks=[], ckpt_path="last")
    assert f"no run of this configuration in {tmp_path}; starting fresh" in caplog.text
    assert trainer.run.stages_done() == [1, 2]


def test_last_with_a_changed_option_starts_fresh_and_names_the_option(
    llava_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(tmp_path)
    record = fit(tmp_path / "one", small_method(llava_folder), callbacks=[]).run.record
    old, new = "model: {rank: 4, alpha: 8}\nseed: 0\n", "model: {rank: 8, alpha: 8}\nseed: 0\n"
    first = open_run(replace(record, config_digest="a"), root=root, name=None, config_text=old, resume=False)
    with caplog.at_level(logging.WARNING, "lit_cvit"):
        second = open_run(
            replace(record, config_digest="b"), root=root, name=None, config_text=new, resume=True
        )
    assert second.path != first.path
    assert f"starting fresh. {first.path} differs in model.rank (was 4, is 8)" in caplog.text


@pytest.mark.parametrize(
    ("changes", "seed", "message"),
    [
        ({"settings": {"num_train": 48}}, 0, "the data of GQA train, ScienceQA train changed"),
        ({"settings": {"num_test": 6}}, 0, "the data of GQA, OCR-VQA, ScienceQA, TextCaps, VizWiz changed"),
        ({}, 1, "the seed was 0, now it is 1"),
    ],
)
def test_a_resume_under_other_conditions_is_refused(
    llava_folder: Path, tmp_path: Path, whole: RunFolder, changes: dict[str, Any], seed: int, message: str
) -> None:
    copy = Path(shutil.copytree(whole.path, tmp_path / whole.path.name))
    before = state_files(RunFolder.open(copy))
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, fragile_method(llava_folder), quick_data(**changes), ckpt_path="last", seed=seed)
    assert state_files(RunFolder.open(copy)) == before


def test_a_run_of_another_method_is_not_resumed(llava_folder: Path, tmp_path: Path, whole: RunFolder) -> None:
    shutil.copytree(whole.path, tmp_path / whole.path.name)
    with pytest.raises(ValueError, match="is a run of SMoLoRA, not of SeqLoRA"):
        fit(tmp_path, small_method(llava_folder, SeqLoRA), ckpt_path="last")


def test_a_run_is_reproduced_from_its_own_config(llava_folder: Path, tmp_path: Path) -> None:
    backbone = ["--model.backbone", "Llava", "--model.backbone.name_or_path", str(llava_folder)]
    data = ["--data.tasks", "[GQA,ScienceQA]", "--data.settings", "{num_train: 16, num_test: 4}"]
    model = [
        "--model",
        "SMoLoRA",
        *backbone,
        "--model.rank",
        "16",
        "--model.optimizer.learning_rate",
        "0.005",
    ]
    root = ["--run_root", str(tmp_path)]
    common = ["--trainer.accelerator", "cpu", "--seed_everything", "3"]
    assert main(["fit", *root, *common, *model, *data, "--name", "first"]) == 0
    assert main(["fit", *root, "--config", str(tmp_path / "first" / "config.yaml"), "--name", "again"]) == 0
    first, again = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "again"))
    assert first["config_digest"] == again["config_digest"] != ""
    assert (first["seed"], again["seed"]) == (3, 3)
    assert state_files(RunFolder.open(tmp_path / "first")) == state_files(RunFolder.open(tmp_path / "again"))
    assert (tmp_path / "first" / "config.yaml").read_text() == (
        tmp_path / "again" / "config.yaml"
    ).read_text()
