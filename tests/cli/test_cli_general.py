"""`test --benchmark general`: what tuning cost, on files in the owners' schemas, asked of a finished run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from general_kit import write_all, write_pope, write_seed

from lit_cvit.__main__ import main
from lit_cvit.cli.load import load_run
from lit_cvit.commands.test import AnswerCounter
from lit_cvit.data.benchmarks import load_benchmark
from lit_cvit.metrics import general
from lit_cvit.run import RunFolder, read_json, read_jsonl

NAMES = ("MMBench", "MME", "POPE", "SEED")
SUMMARIES = {"MMBench": general.mmbench, "MME": general.mme, "POPE": general.pope, "SEED": general.seed_bench}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of all four."""
    folder = tmp_path_factory.mktemp("general")
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def compared(
    finished: RunFolder, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """What the verb printed and kept when it asked stages 2 and 0."""
    out = tmp_path_factory.mktemp("out")
    lines: list[str] = []
    arguments = ["test", "--run", str(finished.path), "--benchmark", "general", "--root", str(root)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text, **_: lines.extend(str(text).splitlines()))
        assert main([*arguments, "--stage", "2", "0", "--out", str(out)]) == 0
    return lines, out


def stored(out: Path, stage: int, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(out / f"stage-{stage}" / f"{name}.jsonl"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", [0, 2])
def test_the_kept_rows_are_all_samples_and_give_the_kept_scores(
    compared: tuple[list[str], Path], root: Path, stage: int, name: str
) -> None:
    out = compared[1]
    rows, scores = stored(out, stage, name), read_json(out / f"stage-{stage}" / "scores.json")
    (task,) = load_benchmark("general", {"root": str(root)}, tasks=[name]).downstream
    asked = [task.test.sample(index) for index in range(len(task.test))]
    assert [row["id"] for row in rows] == [sample.id for sample in asked]
    assert all(sample.user_text in row["prompt"] for row, sample in zip(rows, asked, strict=True))
    assert (scores["stage"], scores["benchmark"]) == (stage, "general")
    mean = 100 * sum(row["score"] for row in rows) / len(rows)
    assert scores["tasks"][name]["score"] == pytest.approx(mean)
    assert scores["tasks"][name]["also"] == SUMMARIES[name](rows)


def test_each_stage_is_printed_with_its_figures_and_what_tuning_changed(
    compared: tuple[list[str], Path],
) -> None:
    lines, out = compared
    before, after = (read_json(out / f"stage-{stage}" / "scores.json") for stage in (0, 2))
    assert "by_tuning" not in before
    assert lines[0] == "before any tuning (stage 0):"
    assert lines[5] == "after stage 2:"
    assert [line.split(":")[0] for line in lines[1:5]] == list(NAMES)
    pope, was = after["tasks"]["POPE"], before["tasks"]["POPE"]
    shown = ("f1", "accuracy", "precision", "recall", "yes_ratio", "unread")
    expected = ", ".join(f"{name} {pope['also'][name]:.2f}" for name in shown)
    changes = ", ".join(f"{name} {pope['also'][name] - was['also'][name]:+.2f}" for name in shown)
    at = next(n for n, line in enumerate(lines) if n > 5 and line.startswith("POPE"))
    assert lines[at : at + 2] == [
        f"POPE: {pope['score']:.2f} (6 samples), {expected}",
        f"  by tuning: {pope['score'] - was['score']:+.2f}, {changes}",
    ]
    for name in NAMES:
        difference = after["tasks"][name]["score"] - before["tasks"][name]["score"]
        assert after["by_tuning"][name]["score"] == pytest.approx(difference)
        assert set(after["by_tuning"][name]) == {"score", *after["tasks"][name]["also"]}


def test_tuning_shows_in_the_answers(compared: tuple[list[str], Path]) -> None:
    texts = [[row["text"] for name in NAMES for row in stored(compared[1], stage, name)] for stage in (0, 2)]
    assert texts[0] != texts[1]


def test_one_stage_is_kept_without_a_folder_of_its_own(
    say, finished: RunFolder, root: Path, tmp_path: Path, compared: tuple[list[str], Path]
) -> None:
    common = ("test", "--run", finished.path, "--benchmark", "general", "--root", root)
    status, out, err = say(*common, "--tasks", "SEED", "POPE", "--out", tmp_path)
    assert (status, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["SEED", "POPE"]
    assert list(read_jsonl(tmp_path / "POPE.jsonl")) == stored(compared[1], 2, "POPE")
    assert "(3 samples)" in say(*common, "--tasks", "POPE", "--limit", 1)[1]


def test_stages_share_what_is_measured_and_the_runs_own_splits_are_measured_already(
    say, finished: RunFolder, root: Path, split_sizes: list[int]
) -> None:
    measured = sorted((finished.path / "measurements").iterdir())
    common = ("test", "--run", finished.path)
    status, *_ = say(*common, "--benchmark", "general", "--root", root, "--tasks", "POPE", "--stage", 0, 2)
    assert (status, split_sizes) == (0, [6])
    assert say(*common, "--tasks", "GQA")[0] == 0
    assert split_sizes == [6]
    assert sorted((finished.path / "measurements").iterdir()) == measured


def test_stage_0_answers_as_a_zero_shot_run_does(
    say, finished: RunFolder, small: Path, tmp_path: Path
) -> None:
    fit = ["fit", "--config", "quickstart", "--config", str(small), "--model", "ZeroShot"]
    fit += ["--data.tasks", "[GQA]", "--name", "zero", "--run_root", str(tmp_path)]
    assert main(fit) == 0
    status, _, _ = say("test", "--run", finished.path, "--stage", 0, "--tasks", "GQA", "--out", tmp_path)
    assert status == 0
    zero = RunFolder.open(tmp_path / "zero")
    assert list(read_jsonl(tmp_path / "GQA.jsonl")) == list(zero.predictions(1, "GQA"))
    assert load_run(finished.path, stage=0).method.tensors() == {}


OWN = """\
name: own
tasks:
  - {name: Signs, train: rows.jsonl, test: rows.jsonl, answer_format: short, scorer: exact, instruction: none}
"""


def test_another_benchmarks_tasks_are_asked_and_need_not_be_learned(
    say, finished: RunFolder, tmp_path: Path
) -> None:
    row = {"question_id": "a", "text": "What is red?", "answer": "A star"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "own.yaml").write_text(OWN)
    common = ("test", "--run", finished.path, "--benchmark", tmp_path / "own.yaml", "--out", tmp_path)
    # The training split is the same; nobody trains on it.
    status, out, err = say(*common)
    (answered,) = read_jsonl(tmp_path / "Signs.jsonl")
    assert (status, out, err) == (0, f"Signs: {100 * answered['score']:.2f} (1 samples)\n", "")
    assert (answered["id"], answered["references"]) == ("a", ["A star"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_answers_are_counted_on_a_terminal_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = load_benchmark("general", {"root": str(root)}, tasks=["POPE"]).downstream
    for screen in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", screen)
        counter = AnswerCounter(task)
        counter(4)
        counter(2)
        shown = ["", "POPE: 4 of 6 answered", " " * 21, ""] if screen.isatty() else [""]
        assert screen.getvalue().split("\r") == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "x"), "--root goes with --benchmark; a run's own tasks are read as it read them"),
        (("--limit", "3"), "--limit goes with --benchmark; a run's own tasks are read as it read them"),
        (("--benchmark", "general"), "general needs its setting 'root' (`--root` of `test`)"),
        (("--benchmark", "generl"), "unknown benchmark 'generl'. Did you mean 'general'?"),
        (("--benchmark", "cvit-mini", "--root", "x"), "data.settings of cvit-mini: unknown setting 'root'."),
        (("--benchmark", "cvit-mini", "--tasks", "x"), "--tasks: unknown task 'x'."),
        (("--stage", "0", "3"), "is not trained; trained stages: 1, 2"),
    ],
)
def test_a_wrong_argument_is_one_message(
    say, finished: RunFolder, arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = say("test", "--run", finished.path, *arguments)
    assert (status != 0, out) == (True, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_missing_image_is_named_before_a_model_is_loaded(
    say, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pope(tmp_path)
    write_seed(tmp_path)
    (tmp_path / "seed_bench" / "SEED-Bench-image" / "145441_25911").unlink()
    monkeypatch.setattr("lit_cvit.cli.load.load_run", None)
    common = ("test", "--run", finished.path, "--benchmark", "general", "--root", tmp_path)
    status, _, err = say(*common, "--tasks", "POPE", "SEED")
    assert status != 0
    assert "SEED-Bench.json, question 1" in err
    assert "no such file" in err
    (tmp_path / "seed_bench" / "SEED-Bench.json").unlink()
    status, _, err = say(*common)
    assert status != 0
    # MMBench's table, MME's categories, SEED's questions.
    assert err.splitlines()[0].startswith("lit_cvit test: general: 16 files or folders are missing; ")


def test_a_benchmark_that_is_only_tested_cannot_be_learned(say, root: Path) -> None:
    fit = ("fit", "--config", "quickstart", "--data.benchmark", "general", "--data.instructions", "null")
    status, _, err = say(*fit, "--data.settings", f"{{root: {root}}}", "--data.tasks", "null")
    assert status != 0
    assert "data.benchmark: 'general' has nothing to train on, its tasks are only tested" in err
