"""StageEvaluation: which tasks are scored when, and where the scores go."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger
from stream_kit import STREAM, TASKS, Killed, KillIn, fit, scoring, small_data, small_method

from callbacks import StageEvaluation
from lit_cvit.methods import Multitask, ZeroShot
from lit_cvit.run import ScoreMatrix
from lit_cvit.stream.trainer import ContinualTrainer

HELD_OUT = ["VizWiz", "TextCaps", "OCR-VQA"]


class Rows(Logger):
    """Keeps what it is given of scores."""

    name, version = "rows", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("score/") for name in metrics):
            assert step is not None
            self.rows.append((step, metrics))


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
    with pytest.raises(ValueError, match="StageEvaluation.tasks must be one of seen, all, last; got 'first'"):
        StageEvaluation(tasks="first")  # type: ignore[arg-type]


def test_num_between_shortens_other_tasks_after_stages_before_the_last() -> None:
    data = small_data(tasks=STREAM, settings={"num_test": 6})
    trainer = ContinualTrainer(accelerator="cpu")
    trainer._data, trainer.stages = data, data.stages(seed=0)
    callback = StageEvaluation(num_between=2)
    asked = [[len(task.test) for task in callback.tasks_after(trainer, stage)] for stage in trainer.stages]
    assert asked == [[6], [2, 6], [6, 6, 6, *[6] * len(HELD_OUT)]]
    (short,) = [task for task in callback.tasks_after(trainer, trainer.stages[1]) if task.name == STREAM[0]]
    assert [short.test.sample(i).id for i in range(2)] == ["test-0", "test-1"]


def test_more_samples_between_than_there_are_is_all_of_them_and_none_is_refused() -> None:
    data = small_data(tasks=STREAM, settings={"num_test": 3})
    trainer = ContinualTrainer(accelerator="cpu")
    trainer._data, trainer.stages = data, data.stages(seed=0)
    callback = StageEvaluation(num_between=50)
    assert [len(task.test) for task in callback.tasks_after(trainer, trainer.stages[1])] == [3, 3]
    with pytest.raises(ValueError, match="num_between must be at least 1, got 0"):
        StageEvaluation(num_between=0)


def test_held_out_scores_are_kept_apart_from_the_matrix(llava_folder: Path, tmp_path: Path) -> None:
    data = small_data(tasks=["GQA"], settings={"num_test": 4})
    run = fit(tmp_path, small_method(llava_folder, ZeroShot), data, callbacks=[StageEvaluation()]).run
    assert run.matrix().tasks == ("GQA",)
    downstream = run.downstream()
    assert downstream.tasks == tuple(HELD_OUT)
    assert [cell is not None for cell in downstream.scores[0]] == [True, True, True]
    assert [len(list(run.predictions(1, task))) for task in HELD_OUT] == [4, 4, 4]


def test_the_report_is_written_after_the_last_stage(llava_folder: Path, tmp_path: Path) -> None:
    data, evaluation = small_data(tasks=["GQA"]), StageEvaluation(downstream=False)
    run = fit(tmp_path, small_method(llava_folder, Multitask), data, callbacks=[evaluation]).run
    assert sorted(path.name for path in run.report_path.iterdir()) == [
        "matrix.csv",
        "matrix.md",
        "matrix.png",
        "summary.csv",
        "summary.md",
    ]


def test_without_a_report_none_is_written(llava_folder: Path, tmp_path: Path) -> None:
    evaluation = StageEvaluation(downstream=False, report=False)
    data = small_data(tasks=["GQA"], settings={"num_test": 2})
    run = fit(tmp_path, small_method(llava_folder, ZeroShot), data, callbacks=[evaluation]).run
    assert not run.report_path.exists()
    assert run.scores(1) is not None


def row_after(matrix: ScoreMatrix, stage: int) -> dict[str, float]:
    """What the loggers should get after a stage of a run without captions."""
    scores = dict(zip(matrix.tasks, matrix.scores[stage - 1], strict=True))
    means = [sum(row[:k]) / k for k, row in enumerate(matrix.scores[:stage], start=1)]  # type: ignore[arg-type]
    logged = {f"score/{task}": value for task, value in scores.items() if value is not None}
    logged |= {"stage/AP": means[-1], "stage/MAP": sum(means) / stage}
    if stage == 2:
        logged["stage/BWT"] = matrix.scores[1][0] - matrix.scores[0][0]  # type: ignore[operator]
    formats = matrix.mif[stage - 1][:stage]
    return logged | {"stage/MIF": sum(formats) / stage}  # type: ignore[arg-type]


def test_every_logger_gets_each_stage_once_also_when_the_run_is_resumed(
    llava_folder: Path, tmp_path: Path
) -> None:
    first, second = Rows(), Rows()
    with pytest.raises(Killed):
        fit(
            tmp_path,
            small_method(llava_folder),
            callbacks=[scoring(), KillIn("on_stage_start", 2)],
            logger=first,
        )
    file = CSVLogger(tmp_path / "logs")
    run = fit(tmp_path, small_method(llava_folder), ckpt_path="last", logger=[second, file]).run
    matrix = run.matrix()
    assert matrix.tasks == TASKS
    assert [step for step, _ in first.rows] == [2]
    assert [step for step, _ in second.rows] == [4]
    assert first.rows[0][1] == pytest.approx(row_after(matrix, 1))
    assert second.rows[0][1] == pytest.approx(row_after(matrix, 2))
    with (Path(file.log_dir) / "metrics.csv").open(encoding="utf-8") as table:
        written = [row for row in csv.DictReader(table) if row["score/GQA"]]
    assert [{k: float(row[k]) for k in ("step", *second.rows[0][1])} for row in written] == [
        {"step": 4.0, **second.rows[0][1]}
    ]


@pytest.mark.parametrize(("predictions", "of_stages"), [("all", [1, 2]), ("last", [2]), ("none", [])])
def test_predictions_are_stored_of_the_stages_that_are_asked_for(
    llava_folder: Path, tmp_path: Path, predictions: Any, of_stages: list[int]
) -> None:
    callback = StageEvaluation(downstream=False, report=False, predictions=predictions)
    run = fit(tmp_path, small_method(llava_folder), callbacks=[callback]).run
    stored = [number for number in (1, 2) if list(run.stage_folder(number).glob("predictions/*.jsonl"))]
    assert stored == of_stages
    assert [[cell is not None for cell in row] for row in run.matrix().scores] == [
        [True, False],
        [True, True],
    ]
