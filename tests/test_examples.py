"""`examples/digits` from end to end: the user's own images, three stages, a complete run, a question."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from lit_cvit.__main__ import main
from lit_cvit.run import RunFolder, Status

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"
TASKS = ["naming", "parity", "larger"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is built and its README's `fit` command has run."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    build = runpy.run_path(str(DIGITS / "build.py"))["build"]
    build(folder / "digits", num_train=120, num_test=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", str(DIGITS / "fit.yaml")]) == 0
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    return RunFolder.open(folder / "runs" / "seqlora-digits", verify=True)


def commands(verb: str) -> list[list[str]]:
    """The arguments of the README's commands of one verb."""
    text = (DIGITS / "README.md").read_text(encoding="utf-8")
    return [
        shlex.split(line)[3:] for line in re.findall(rf"^python -m lit_cvit {verb} .*$", text, re.MULTILINE)
    ]


def test_all_three_stages_are_trained_and_evaluated(run: RunFolder) -> None:
    assert run.record.stream == TASKS
    assert [(stage.task, stage.status) for stage in run.record.stages] == [
        (t, Status.EVALUATED) for t in TASKS
    ]
    assert [stage.facts["steps"] for stage in run.record.stages] == [8, 8, 8]
    assert not run.record.miniature


def test_every_seen_task_is_scored_on_its_30_samples_after_every_stage(run: RunFolder) -> None:
    for number in (1, 2, 3):
        scores = run.scores(number)
        assert scores is not None
        assert {name: score.count for name, score in scores.tasks.items()} == dict.fromkeys(
            TASKS[:number], 30
        )
        for name in TASKS[:number]:
            assert [row["id"] for row in run.predictions(number, name)] == [f"test-{i}" for i in range(30)]


def test_answers_take_the_form_of_the_task_that_was_just_learned(run: RunFolder) -> None:
    """24 steps teach the form, whatever they teach of digits."""
    parity = run.scores(2)
    assert parity is not None
    assert parity.tasks["parity"].mif == 100.0


def test_report_and_matrix_are_there(run: RunFolder) -> None:
    header, *rows = (run.path / "matrix.csv").read_text().splitlines()
    assert header == "stage,task_learned,naming,parity,larger"
    assert [row.split(",")[:2] for row in rows] == [["1", "naming"], ["2", "parity"], ["3", "larger"]]
    assert {path.suffix for path in run.report_path.iterdir()} >= {".md", ".csv", ".png"}


def test_the_readme_names_the_commands_that_were_run_here() -> None:
    assert commands("fit") == [["fit", "--config", "examples/digits/fit.yaml"]]
    assert commands("check") == [["check", "--config", "examples/digits/fit.yaml"]]
    assert (DIGITS / "fit.yaml").is_file()


def test_check_counts_the_built_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["check", "--config", str(DIGITS / "fit.yaml"), "--decode_images"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *(f"{task}: 120 train, 30 test, 150 with image: no problems" for task in TASKS),
        "3 stages, 24 steps: ready to fit",
    ]


def test_predict_repeats_a_stored_answer_about_an_image_of_the_folder(
    folder: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = commands("predict")
    first = next(iter(run.predictions(1, "naming")))
    rows = (folder / "digits" / "naming-test.json").read_text()
    image = re.findall(r'"image": "(.*?)"', rows)[0]
    command[command.index("--image") + 1] = f"digits/images/{image}"
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == first["text"] + "\n"
