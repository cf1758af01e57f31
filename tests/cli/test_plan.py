"""`plan` says what a configuration would cost, and starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_cvit.backbones import Backbone
from lit_cvit.run import RunFolder

QUICK = ("plan", "--config", "quickstart")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(say, *arguments: object) -> list[str]:
    status, out, err = say(*QUICK, *arguments)
    assert (status, err) == (0, "")
    return out.splitlines()


def test_a_plan_has_memory_stages_passes_and_answers_and_leaves_nothing(
    say, small: Path, elsewhere: Path, planned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(Backbone, "load", refuse)
    lines = lines_of(say, "--config", small, "--run_root", elsewhere / "runs")
    assert list(elsewhere.iterdir()) == []
    assert lines[0] == "memory plan, computed before the weights are loaded"
    assert "method    SeqLoRA, seed 0" in lines
    assert "stream    cvit-mini: ScienceQA > GQA" in lines
    assert "stage 1   ScienceQA: 12 samples, 3 steps; then 6 answers to ScienceQA" in lines
    assert lines[-3].startswith(
        "stage 2   GQA: 12 samples, 3 steps; then 30 answers to ScienceQA, GQA, VizWiz"
    )
    assert lines[-2] == (
        "planned   6 steps of 4 samples in 2 stage(s), 6 passes over test splits, 36 answers"
    )
    assert lines[-1].startswith("time      unknown: ")
    assert "--seconds_per_step and --seconds_per_answer" in lines[-1]


def test_stated_seconds_give_the_time(say, small: Path) -> None:
    stated = ("--seconds_per_step", "20", "--seconds_per_answer", "5")
    time = lines_of(say, "--config", small, *stated)[-1]
    # 6 steps and 36 answers: 120 s and 180 s.
    assert time == "time      about 5.0 min: 20 s for each step and 5 s for each answer, as given"


def test_an_earlier_run_of_the_configuration_gives_the_seconds(say, small: Path, finished: RunFolder) -> None:
    stages = [finished.record.stage(number) for number in (1, 2)]
    scores = [score for number in (1, 2) for score in finished.scores(number).tasks.values()]
    step = sum(stage.seconds["train"] for stage in stages) / 6
    answer = sum(score.seconds for score in scores) / 36
    where = ("--config", small, "--run_root", finished.path.parent)
    assert lines_of(say, *where)[-1] == (
        f"time      about {(6 * step + 36 * answer) / 60:.1f} min: {step:.3g} s for each step and "
        f"{answer:.3g} s for each answer, as measured in {finished.path}"
    )
    time = lines_of(say, *where, "--seconds_per_step", "2")[-1]
    assert f"2 s for each step and {answer:.3g} s for each answer, as given, else as in" in time
    assert "unknown" in lines_of(say, *where, "--data.epochs", "2")[-1]


def test_a_method_that_never_trains_has_no_steps(say, small: Path) -> None:
    lines = lines_of(say, "--config", small, "--model", "ZeroShot", "--seconds_per_answer", "60")
    assert lines[-2].startswith("planned   0 steps of 4 samples in 1 stage(s)")
    assert lines[-1] == "time      about 30.0 min: 60 s for each answer, as given"


def test_what_fit_refuses_plan_refuses(say, small: Path) -> None:
    status, out, err = say(*QUICK, "--config", small, "--data.tasks", "[GQ]")
    assert (status, out) == (1, "")
    assert "mean 'GQA'" in err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_seconds_must_be_a_number_above_zero(say, value: str) -> None:
    status, out, err = say(*QUICK, f"--seconds_per_step={value}")
    assert (status, out) == (2, "")
    assert "seconds_per_step" in err
    assert value in err
