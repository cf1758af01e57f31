"""The run folder: layout, stages that count, scores, and finding the run to resume."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from run_kit import TASKS, make_run, new_record, score

from lit_cvit.run import RunFolder, StageScores, Status, Writer, newest_run


def test_a_new_run_holds_its_configuration_and_record(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    assert run.path == tmp_path / "quick"
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"
    assert json.loads((run.path / "run.json").read_text()) == run.record.to_json()


def test_an_existing_folder_is_never_touched_the_next_run_gets_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "mine.txt").write_text("keep")
    names = [make_run(tmp_path, num_stages=0).path.name for _ in range(2)]
    assert names == ["quick-2", "quick-3"]
    assert [path.name for path in (tmp_path / "quick").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_run_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a folder name; for example"):
        RunFolder.create(tmp_path, name, "", record=new_record())


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=2)
    run.log({"step": 1})
    run.writer.append_line(run.predictions_path(2, "OCR/VQA"), {"id": "1"})
    run.save_scores(StageScores(2, "OCR/VQA", {"OCR/VQA": score(1.0)}))
    files = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())
    second = run.stage_folder(2).name
    assert second.startswith("02-OCR_VQA-")
    assert files == sorted(
        [
            "config.yaml",
            "log.jsonl",
            "matrix.csv",
            "matrix.json",
            "run.json",
            *(
                f"stages/01-ScienceQA/{name}"
                for name in ("manifest.json", "method.json", "method.safetensors")
            ),
            *(f"stages/{second}/{name}" for name in ("manifest.json", "method.json", "method.safetensors")),
            f"stages/{second}/predictions/{second[3:]}.jsonl",
            f"stages/{second}/scores.json",
        ]
    )


def test_a_stage_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    run.plan_stage(1, "ScienceQA", {"grow": [1, 2]})
    extra = {"callbacks": {"EMA": {"shadow": torch.tensor([0.5]), "steps": (1, 2)}}, "step": 80}
    run.save_stage(1, {"w": torch.tensor([1.0, 2.0])}, {"keys": ["a"]}, extra=extra, seconds=2.5)
    stage = RunFolder.open(run.path).load_stage(1)
    assert (stage.stage, stage.task, stage.plan) == (1, "ScienceQA", {"grow": [1, 2]})
    assert stage.tensors["w"].tolist() == [1.0, 2.0]
    assert stage.state == {"keys": ["a"]}
    assert stage.extra["callbacks"]["EMA"]["shadow"].tolist() == [0.5]
    assert (stage.extra["callbacks"]["EMA"]["steps"], stage.extra["step"]) == ((1, 2), 80)
    assert RunFolder.open(run.path).record.stage(1).seconds == {"train": 2.5}


def test_statuses_go_from_planned_to_trained_to_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    seen = [run.plan_stage(1, "ScienceQA", {}).status]
    run.save_stage(1, {}, {})
    seen.append(RunFolder.open(run.path).record.stage(1).status)
    run.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(50.0)}), seconds=3.0)
    seen.append(RunFolder.open(run.path).record.stage(1).status)
    assert seen == [Status.PLANNED, Status.TRAINED, Status.EVALUATED]
    assert RunFolder.open(run.path).record.stage(1).seconds == {"evaluate": 3.0}


@pytest.mark.parametrize("name", ["method.safetensors", "method.json"])
def test_a_tampered_file_is_named_and_its_stage_does_not_count(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, num_stages=2)
    path = run.stage_folder(1) / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"stage 1 \(ScienceQA\) cannot be loaded: .*{name} does not match"):
        run.load_stage(1)
    with pytest.warns(UserWarning, match="does not count: .*does not match its checksum"):
        assert RunFolder.open(run.path, verify=True).stages_done() == []


@pytest.mark.parametrize("name", ["manifest.json", "method.safetensors"])
def test_a_missing_file_is_seen_without_reading_checksums(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, num_stages=2)
    (run.stage_folder(2) / name).unlink()
    with pytest.warns(UserWarning, match=rf"stage 2 .*{name} is missing"):
        assert RunFolder.open(run.path).stages_done() == [1]


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_a_stage_whose_tensors_are_not_finite_cannot_be_loaded(tmp_path: Path, number: float) -> None:
    """Its checksums fit: an earlier version stored what training that diverged had left."""
    run = make_run(tmp_path, num_stages=1)
    run.plan_stage(2, TASKS[1], {})
    run.save_stage(2, {"a": torch.zeros(3), "b": torch.tensor([1.0, number])}, {})
    words = (
        rf"stage 2 \(OCR/VQA\), {run.path}/stages/02-OCR_VQA-\w+/method\.safetensors: b holds numbers that"
    )
    with pytest.raises(ValueError, match=words):
        run.load_stage(2)
    assert run.load_stage(1).tensors["w"].tolist() == [1.0] * 4


def test_stages_after_an_invalid_one_do_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=2)
    (run.stage_folder(1) / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="does not count"):
        assert RunFolder.open(run.path).stages_done() == []


def test_replanning_a_stage_drops_what_stood_on_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=2)
    run.save_scores(StageScores(2, "OCR/VQA", {"ScienceQA": score(1.0)}))
    (run.stage_folder(1) / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="does not count"):
        again = RunFolder.open(run.path)
    again.plan_stage(1, "ScienceQA", {"grow": 9})
    again.save_stage(1, {}, {})
    again.plan_stage(2, "OCR/VQA", {})
    reopened = RunFolder.open(run.path)
    assert reopened.stages_done() == [1]
    assert reopened.record.stage(1).plan == {"grow": 9}
    assert reopened.scores(2) is None


def test_saving_a_stage_again_drops_the_scores_and_predictions_of_other_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.writer.append_line(run.predictions_path(1, "ScienceQA"), {"id": "1"})
    run.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(1.0)}))
    run.save_stage(1, {}, {})
    assert run.scores(1) is None
    assert not run.predictions_path(1, "ScienceQA").exists()
    assert RunFolder.open(run.path).record.stage(1).status is Status.TRAINED


@pytest.mark.parametrize(
    ("stage", "message"),
    [(1, "stage 1 of .* is already trained"), (3, "cannot be planned: the next stage of .* is 2")],
)
def test_only_the_next_stage_can_be_planned(tmp_path: Path, stage: int, message: str) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match=message):
        run.plan_stage(stage, "OCR/VQA", {})


def test_state_that_cannot_be_stored_leaves_the_stage_planned(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    run.plan_stage(1, "ScienceQA", {})
    with pytest.raises(ValueError, match=r"method\.json\.keys is a set"):
        run.save_stage(1, {}, {"keys": {1}})
    with pytest.raises(ValueError, match=r"extra\.ema is a object"):
        run.save_stage(1, {}, {}, extra={"ema": object()})
    assert not run.stage_folder(1).exists()


def test_scores_before_training_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    run.plan_stage(1, "ScienceQA", {})
    with pytest.raises(ValueError, match="has scores before it is trained"):
        run.save_scores(StageScores(1, "ScienceQA", {}))


def test_scores_json_is_the_documented_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    scores = {"ScienceQA": score(62.5, mif=100.0, also={"exact": 50.0}, seconds=1.5)}
    run.save_scores(StageScores(1, "ScienceQA", scores))
    assert json.loads((run.stage_folder(1) / "scores.json").read_text()) == {
        "stage": 1,
        "task_learned": "ScienceQA",
        "tasks": {
            "ScienceQA": {"score": 62.5, "count": 10, "mif": 100.0, "also": {"exact": 50.0}, "seconds": 1.5}
        },
    }


def test_scores_of_one_stage_add_up_over_calls(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(1.0), "Places": score(2.0)}))
    run.save_scores(StageScores(1, "ScienceQA", {"Places": score(3.0)}))
    scores = RunFolder.open(run.path).scores(1)
    assert scores is not None
    assert {name: task.score for name, task in scores.tasks.items()} == {"ScienceQA": 1.0, "Places": 3.0}


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.stage_folder(1) / "scores.json").write_text('{"stage": 1}')
    with pytest.raises(ValueError, match=r"scores\.json is not a stage's scores: 'task"):
        run.scores(1)


def test_the_matrix_has_a_row_per_stage_and_null_where_nothing_was_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=2)
    run.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(80.0, mif=90.0)}))
    second = {"ScienceQA": score(1 / 3), "OCR/VQA": score(120.0, mif=100.0, also={"exact": 40.0})}
    run.save_scores(StageScores(2, "OCR/VQA", second))
    assert json.loads((run.path / "matrix.json").read_text()) == {
        "tasks": ["ScienceQA", "OCR/VQA"],
        "captions": ["OCR/VQA"],
        "stages": ["ScienceQA", "OCR/VQA"],
        "scores": [[80.0, None], [1 / 3, 120.0]],
        "mif": [[90.0, None], [None, 100.0]],
        "also": {"exact": [[None, None], [None, 40.0]]},
    }
    with (run.path / "matrix.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["stage", "task_learned", "ScienceQA", "OCR/VQA"],
            ["1", "ScienceQA", "80.0", ""],
            ["2", "OCR/VQA", "0.3333333333333333", "120.0"],
        ]


def test_downstream_tasks_have_a_matrix_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.record.downstream = ["Places"]
    run.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(1.0), "Places": score(2.0)}))
    assert run.matrix().scores == [[1.0, None]]
    assert run.downstream().scores == [[2.0]]


def test_predictions_are_read_back_and_missing_ones_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.writer.append_line(run.predictions_path(1, "ScienceQA"), {"id": "7", "raw": "A"})
    assert list(run.predictions(1, "ScienceQA")) == [{"id": "7", "raw": "A"}]
    with pytest.raises(ValueError, match="no predictions of task 'GQA'; there are: ScienceQA"):
        run.predictions(1, "GQA")


def test_opening_names_what_is_missing(tmp_path: Path) -> None:
    make_run(tmp_path, num_stages=0)
    with pytest.raises(ValueError, match="no run folder .*quikc; did you mean .*quick"):
        RunFolder.open(tmp_path / "quikc")
    with pytest.raises(ValueError, match="no run folder .*; .*none does not exist either"):
        RunFolder.open(tmp_path / "none" / "quick")
    with pytest.raises(
        ValueError, match=r"is not a run folder: it has no run\.json; it holds the runs quick"
    ):
        RunFolder.open(tmp_path)
    (tmp_path / "quick" / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"is not a whole run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path / "quick")


def test_the_newest_run_is_the_last_made_of_the_same_configuration(tmp_path: Path) -> None:
    for created, digest in (
        ("2030-01-02", "a"),
        ("2030-01-03", "a"),
        ("2030-01-01", "a"),
        ("2030-01-04", "b"),
    ):
        record = new_record(config_digest=digest, created=created)
        RunFolder.create(tmp_path, "quick", "", record=record)
    (tmp_path / "empty").mkdir()
    newest = newest_run(tmp_path, "a")
    assert newest is not None
    assert newest.path.name == "quick-2"


def test_with_a_name_only_runs_started_under_it_count(tmp_path: Path) -> None:
    """A finished twin of the configuration must not stand in for the run that was asked for."""
    for created, name in (("2030-01-01", "mine"), ("2030-01-02", "mine"), ("2030-01-03", "mine-too")):
        RunFolder.create(tmp_path, name, "", record=new_record(config_digest="a", created=created))
    newest = newest_run(tmp_path, "a", name="mine")
    assert newest is not None
    assert newest.path.name == "mine-2"
    assert newest_run(tmp_path, "a", name="min") is None


def test_without_a_run_of_the_configuration_there_is_no_newest(tmp_path: Path) -> None:
    make_run(tmp_path, num_stages=0)
    assert newest_run(tmp_path, "other") is None
    assert newest_run(tmp_path / "none", "digest") is None


def test_an_unreadable_run_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    make_run(tmp_path, num_stages=0)
    (tmp_path / "quick-2" / "run.json").write_text('{"schema": 99}')
    with pytest.warns(UserWarning, match=r"passed over: .*quick-2.*schema version 99"):
        newest = newest_run(tmp_path, "digest")
    assert newest is not None
    assert newest.path == run.path


def test_measurements_are_read_back_by_name_and_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    assert run.measurement("prompt_tokens-1") is None
    run.save_measurement("prompt_tokens-1", torch.tensor([3, 1, 2], dtype=torch.int32))
    again = RunFolder.open(run.path)
    found = again.measurement("prompt_tokens-1")
    assert found is not None
    assert (found.dtype, found.tolist()) == (torch.int32, [3, 1, 2])
    assert again.measurement("prompt_tokens-2") is None
    (path,) = (run.path / "measurements").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"prompt_tokens-1\.safetensors .*measured again"):
        assert again.measurement("prompt_tokens-1") is None


def test_a_rank_that_does_not_write_follows_along(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    other = RunFolder.open(run.path, writer=Writer(enabled=False))
    other.plan_stage(1, "ScienceQA", {})
    other.save_stage(1, {"w": torch.ones(1)}, {}, extra={"step": 1})
    other.save_scores(StageScores(1, "ScienceQA", {"ScienceQA": score(1.0)}))
    other.log({"step": 1})
    other.save_measurement("prompt_tokens-1", torch.ones(1))
    assert other.record.stage(1).status is Status.EVALUATED
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
