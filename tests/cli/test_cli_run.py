"""fit, then test and predict on the finished run: they say again what the run stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.cli.load import load_run
from lit_cvit.data.benchmarks.cvit_mini import cvit_mini
from lit_cvit.data.tasks import Sample
from lit_cvit.run import RunFolder, read_json, read_jsonl

TASKS = ("ScienceQA", "GQA")


def sample(task: str, index: int) -> Sample:
    return cvit_mini(num_train=12, num_test=6).task(task).test.sample(index)


def stored(run: RunFolder, stage: int, task: str) -> list[dict[str, Any]]:
    return list(run.predictions(stage, task))


def ask(task: str, index: int, folder: Path) -> list[str]:
    """The options of `predict` that ask what the run was asked."""
    asked = sample(task, index)
    budget = {"ScienceQA": 8, "GQA": 24}[task]
    options = ["--question", asked.question, "--instruction", asked.instruction]
    options += ["--max_new_tokens", str(budget)]
    if asked.image is not None:
        asked.image.open().save(folder / f"{task}-{index}.png")
        options += ["--image", str(folder / f"{task}-{index}.png")]
    return options


def test_fit_leaves_a_complete_run_folder(finished: RunFolder) -> None:
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "run.json",
        "log.jsonl",
        "matrix.json",
        "matrix.csv",
        "stages/01-ScienceQA/method.safetensors",
        "stages/01-ScienceQA/predictions/ScienceQA.jsonl",
        "stages/02-GQA/method.json",
        "stages/02-GQA/scores.json",
        "stages/02-GQA/predictions/ScienceQA.jsonl",
        "stages/02-GQA/predictions/VizWiz.jsonl",
    }
    assert any(name.startswith("report/") and name.endswith(".md") for name in files)
    assert any(name.startswith("report/") and name.endswith(".csv") for name in files)
    assert any(name.startswith("report/") and name.endswith(".png") for name in files)


# -- test ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_test_repeats_scores_and_predictions_of_a_stage(
    say, finished: RunFolder, tmp_path: Path, stage: int
) -> None:
    out_folder = tmp_path / "a" / "b"
    status, out, err = say("test", "--run", finished.path, "--stage", stage, "--out", out_folder)
    assert (status, err) == (0, "")
    scores = finished.scores(stage)
    assert scores is not None
    names = TASKS[:stage]
    assert out.splitlines() == [f"{name}: {scores.tasks[name].score:.2f} (6 samples)" for name in names]
    again = read_json(out_folder / "scores.json")
    assert again["stage"] == stage
    assert {name: row["score"] for name, row in again["tasks"].items()} == {
        name: scores.tasks[name].score for name in names
    }
    for name in names:
        assert list(read_jsonl(out_folder / f"{name}.jsonl")) == stored(finished, stage, name)


def test_test_scores_the_tasks_that_are_named(say, finished: RunFolder) -> None:
    status, out, _ = say("test", "--run", finished.path, "--tasks", "VizWiz", "GQA")
    scores = finished.scores(2)
    assert scores is not None
    assert status == 0
    assert out.splitlines() == [
        f"{name}: {scores.tasks[name].score:.2f} (6 samples)" for name in ("VizWiz", "GQA")
    ]


# -- predict ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("index", [0, 4])
def test_predict_repeats_a_stored_prediction(
    say, finished: RunFolder, tmp_path: Path, stage: int, index: int
) -> None:
    asked = ask("ScienceQA", index, tmp_path)
    status, out, err = say("predict", "--run", finished.path, "--stage", stage, *asked)
    assert (status, err) == (0, "")
    assert out == stored(finished, stage, "ScienceQA")[index]["text"] + "\n"


def test_predict_asks_the_last_stage_by_default(say, finished: RunFolder, tmp_path: Path) -> None:
    _, out, _ = say("predict", "--run", finished.path, *ask("GQA", 1, tmp_path))
    assert out == stored(finished, 2, "GQA")[1]["text"] + "\n"


def test_predict_finds_an_image_relative_to_the_current_folder(
    say, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask("GQA", 2, tmp_path)
    monkeypatch.chdir(tmp_path)
    _, out, _ = say("predict", "--run", finished.path, *asked[:-1], "GQA-2.png")
    assert out == stored(finished, 2, "GQA")[2]["text"] + "\n"


def test_a_second_turn_sees_the_first(say, finished: RunFolder, tmp_path: Path) -> None:
    asked = sample("GQA", 0)
    options = ask("GQA", 0, tmp_path)
    status, out, _ = say("predict", "--run", finished.path, *options, "--question", "And the other one?")
    assert status == 0
    first, second = out.splitlines()
    assert first == stored(finished, 2, "GQA")[0]["text"]

    loaded = load_run(finished.path)
    turn = Sample(
        "turn",
        "",
        "And the other one?",
        asked.instruction,
        ("",),
        asked.image,
        (),
        ((asked.user_text, first),),
    )
    batch = loaded.data.encoder.encode([turn], with_answers=False)
    assert loaded.method.generate(batch, max_new_tokens=24) == [second]
    assert loaded.method.backbone.prompt(turn).count("User:") == 2


def test_predict_answers_a_file_of_questions_in_batches(say, finished: RunFolder, tmp_path: Path) -> None:
    rows = []
    for index in range(6):
        asked = sample("ScienceQA", index)
        row = {"id": asked.id, "question": asked.question, "instruction": asked.instruction}
        if asked.image is not None:
            asked.image.open().save(tmp_path / f"{index}.png")
            row["image"] = f"{index}.png"
        rows.append(row)
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    out_file = tmp_path / "answers" / "answers.jsonl"
    common = ("predict", "--run", finished.path, "--jsonl", questions, "--max_new_tokens", 8)
    assert say(*common, "--batch_size", 4, "--out", out_file) == (0, "", "")
    expected = [
        {"id": f"test-{index}", "answer": row["text"]}
        for index, row in enumerate(stored(finished, 2, "ScienceQA"))
    ]
    assert list(read_jsonl(out_file)) == expected
    status, out, _ = say(*common)
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == expected


def test_max_new_tokens_limits_the_answers_of_a_file_too(say, finished: RunFolder, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        '{"question": "say after me: star moon heart"}\n{"id": "b", "question": "What is it?"}\n'
    )
    common = ("predict", "--run", finished.path, "--jsonl", questions)
    short = [json.loads(line) for line in say(*common, "--max_new_tokens", 1)[1].splitlines()]
    assert [row["id"] for row in short] == ["1", "b"]
    tokenizer = load_run(finished.path).method.backbone.tokenizer
    assert all(len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) <= 2 for row in short)


# -- check --------------------------------------------------------------------------------------------------


def test_check_prints_counts_and_steps(say, small: Path) -> None:
    status, out, err = say("check", "--config", "quickstart", "--config", small)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == [
        # One question in five of ScienceQA is text alone.
        "ScienceQA: 12 train, 6 test, 15 with image: no problems",
        "GQA: 12 train, 6 test, 18 with image: no problems",
    ]
    assert lines[-2:] == [
        "images: files were looked up, nothing was decoded; --decode_images opens every image",
        "2 stages, 6 steps: ready to fit",
    ]


BAD = """\
name: mine
tasks:
  - {name: Signs, train: train.json, test: test.json, image_root: images, answer_format: short,
     scorer: exact, instruction: none}
"""


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A benchmark of the user's own with one image and nothing wrong."""
    (tmp_path / "images").mkdir()
    image = sample("GQA", 0).image
    assert image is not None
    image.open().save(tmp_path / "images" / "a.png")
    image.open().save(tmp_path / "outside.png")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A star"}]
    (tmp_path / "train.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]))
    row = {"question_id": "2", "image": "a.png", "text": "What is that?", "answer": "A moon"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    (tmp_path / "mine.yaml").write_text(BAD)
    return tmp_path / "mine.yaml"


def test_check_passes_clean_data_of_the_users_own(say, own_data: Path) -> None:
    status, out, _ = say(
        "check",
        "--config",
        "quickstart",
        "--data.benchmark",
        own_data,
        "--data.instructions",
        "null",
        "--decode_images",
    )
    assert (status, out.splitlines()) == (
        0,
        ["Signs: 1 train, 1 test, 2 with image: no problems", "1 stage, 1 step: ready to fit"],
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"question_id": "2", "image": "../outside.png", "text": "Q", "answer": "A"},
            "must stay under the image root",
        ),
        ({"question_id": "2", "image": "none.png", "text": "Q", "answer": "A"}, "no such file"),
        ({"question_id": "2", "image": "a.png", "text": "Q"}, "answer"),
        ({"question_id": "2", "image": "a.png", "text": "Q", "answer": ""}, "it must not be blank"),
    ],
    ids=["outside", "missing", "no-answer", "empty-answer"],
)
@pytest.mark.parametrize("verb", ["check", "fit"])
def test_a_bad_record_stops_before_anything_is_trained(
    say, own_data: Path, tmp_path: Path, verb: str, row: dict[str, str], problem: str
) -> None:
    (own_data.parent / "test.json").write_text(json.dumps([row]))
    arguments = ("--config", "quickstart", "--data.benchmark", own_data, "--data.instructions", "null")
    status, out, err = say(verb, *arguments, "--run_root", tmp_path / "runs")
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert err.startswith(f"lit_cvit {verb}: ")
    assert problem in err
    assert "test.json" in err
    assert not (tmp_path / "runs").exists()


def test_a_wrong_key_in_a_benchmark_file_names_task_and_key(say, own_data: Path) -> None:
    own_data.write_text(BAD.replace("scorer:", "score:"))
    status, _, err = say(
        "check", "--config", "quickstart", "--data.benchmark", own_data, "--data.instructions", "null"
    )
    assert status == 1
    start = (
        f"lit_cvit check: {own_data}, task 1 ('Signs'): unknown key 'score'. Did you mean 'scorer'? Known: "
    )
    assert err.startswith(start)
    assert err.count("\n") == 1
