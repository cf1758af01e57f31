"""StageEvaluation: which tasks are scored when, and where the scores go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stream_kit import STREAM, fit, small_data, small_method

from callbacks import StageEvaluation
from lit_cvit.methods import Multitask, ZeroShot
from lit_cvit.stream.trainer import ContinualTrainer

HELD_OUT = ["VizWiz", "TextCaps", "OCR-VQA"]


def planned(
    tasks: Any, *, joint: bool = False, downstream: bool = True, names: list[str] = STREAM
) -> list[list[str]]:
    """The tasks scored after each stage, without running any."""
    data = small_data(tasks=names)
    trainer = ContinualTrainer(accelerator="cpu")
    trainer._data, trainer.stages = data, data.stages(seed=0, joint=joint)
    callback = StageEvaluation(tasks=tasks, downstream=downstream)
    return [[task.name for task in callback.tasks_after(trainer, stage)] for stage in trainer.stages]


def test_seen_tasks_are_scored_and_held_out_ones_after_the_last_stage() -> None:
    assert planned("seen") == [STREAM[:1], STREAM[:2], STREAM + HELD_OUT]


def test_all_tasks_are_scored_after_every_stage() -> None:
    assert planned("all", downstream=False) == [STREAM, STREAM, STREAM]


def test_last_scores_the_task_just_learned_and_at_the_end_all() -> None:
    assert planned("last") == [STREAM[:1], STREAM[1:2], STREAM + HELD_OUT]


def test_joint_training_scores_every_task_once() -> None:
    assert planned("seen", joint=True) == [STREAM + HELD_OUT]


def test_the_few_shot_task_is_learned_not_held_out() -> None:
    assert planned("seen", names=["Places365"]) == [["Places365", *HELD_OUT]]


def test_an_unknown_choice_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'seen', 'all' or 'last', got 'first'"):
        StageEvaluation(tasks="first")  # type: ignore[arg-type]


def test_held_out_scores_are_kept_apart_from_the_matrix(llava_folder: Path, tmp_path: Path) -> None:
    data = small_data(tasks=["GQA"], settings={"num_test": 4})
    run = fit(tmp_path, small_method(llava_folder, ZeroShot), data, callbacks=[StageEvaluation()]).run
    assert run.matrix().tasks == ("GQA",)
    downstream = run.downstream()
    assert downstream.tasks == tuple(HELD_OUT)
    assert [cell is not None for cell in downstream.scores[0]] == [True, True, True]
    assert [len(list(run.predictions(1, task))) for task in HELD_OUT] == [4, 4, 4]


def test_the_report_is_written_after_the_last_stage(llava_folder: Path, tmp_path: Path) -> None:
    run = fit(tmp_path, small_method(llava_folder, Multitask), small_data(tasks=["GQA"])).run
    assert sorted(path.name for path in run.report_path.iterdir()) == [
        "matrix.csv",
        "matrix.md",
        "matrix.png",
        "summary.csv",
        "summary.md",
    ]
