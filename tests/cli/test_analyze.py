"""analyze: how analyses are found, and `analyze cka` on a finished run against the callback's report."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import differing, fit, small_data, small_method, snapshot

from callbacks import CKAAnalysis
from lit_cvit.__main__ import main
from lit_cvit.commands.analyze.cka import cka_of_run
from lit_cvit.methods import DirLoRA
from lit_cvit.run import RunFolder, RunRecord, read_json
from lit_cvit.stream.preflight import introduce
from lit_cvit.stream.restore import restore_method, restored_stages

EXAMPLE = textwrap.dedent(inspect.getdoc(CKAAnalysis).split("Example::")[1].split("Args:")[0])  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory, small: Path) -> RunFolder:
    """A run of the configuration in the callback's docstring, shortened; tests may overwrite its report."""
    folder = tmp_path_factory.mktemp("analysed")
    (folder / "example.yaml").write_text(EXAMPLE)
    arguments = ["fit", "--config", "quickstart", "--config", str(folder / "example.yaml")]
    arguments += ["--config", str(small), "--run_root", str(folder), "--name", "run"]
    # Scores are not looked at here.
    arguments += ["--trainer.callbacks+=StageEvaluation", "--trainer.callbacks.tasks", "last"]
    arguments += ["--trainer.callbacks.downstream", "false"]
    assert main(arguments) == 0
    run = RunFolder.open(folder / "run")
    shutil.copytree(run.analysis_path("cka"), folder / "callback")
    return run


def written(run: RunFolder) -> dict[str, Any]:
    """The report that the callback wrote."""
    return read_json(run.path.parent / "callback" / "cka.json")


def test_a_finished_run_gives_the_report_of_the_callback(say, analysed: RunFolder) -> None:
    status, out, err = say("analyze", "cka", "--run", analysed.path)
    assert (status, err) == (0, "")
    report = written(analysed)
    assert report["stages"] == {"ScienceQA": 1, "GQA": 2}
    lines = out.splitlines()
    assert lines[:4] == [
        f"layer {layer}: mean CKA of two tasks {value:.4f}" for layer, value in enumerate(report["curve"])
    ]
    assert lines[4].startswith("first task-specific layer: ")
    assert lines[5:] == [f"wrote {analysed.analysis_path('cka')}"]
    folders = (analysed.path.parent / "callback", analysed.analysis_path("cka"))
    assert read_json(folders[1] / "cka.json") == report
    files = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert files[0] == files[1] == ["cka.csv", "cka.json", "curve.png", "stages.png", "tasks.png"]
    assert (folders[0] / "cka.csv").read_bytes() == (folders[1] / "cka.csv").read_bytes()


def documented(language: str) -> str:
    """The first block of a language in docs/analyses.md."""
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text(encoding="utf-8")
    return page.split(f"```{language}\n")[1].split("```")[0]


def test_the_documented_commands_write_what_they_say(
    say, analysed: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x").symlink_to(analysed.path)
    first, *others = documented("bash").splitlines()
    assert first == "python -m lit_cvit analyze cka --run runs/x"
    for command in others:
        status, _, err = say(*command.removeprefix("python -m lit_cvit ").split())
        assert (status, err) == (0, "")
    published, last = (read_json(tmp_path / name / "cka.json") for name in ("cka-as-published", "cka-last"))
    facts = {"kernel": "rbf", "at": "down_proj", "through": "own", "samples": 6}
    assert {name: published[name] for name in facts} == facts
    facts = {"kernel": "linear", "at": "layer", "through": "last", "between_stages": {}}
    facts |= {"stages": {"ScienceQA": 2, "GQA": 2}}
    assert {name: last[name] for name in facts} == facts
    assert not (tmp_path / "cka-last" / "stages.png").exists()


def test_python_gets_the_same_values_as_documented_and_may_name_a_stage(
    analysed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    scope: dict[str, Any] = {}
    exec(documented("python").replace("runs/x", str(analysed.path)), scope)
    own = scope["report"]
    assert own.cka.tolist() == written(analysed)["cka"]
    assert "['ScienceQA', 'GQA']" in capsys.readouterr().out
    first = cka_of_run(analysed.path, through=1, between_stages=False)
    assert first.to_json()["through"] == "stage 1"
    assert torch.equal(first.distances["ScienceQA"][1], own.distances["ScienceQA"][1])
    assert not torch.allclose(first.distances["GQA"][1], own.distances["GQA"][2], rtol=1e-3)
    with pytest.raises(ValueError, match="kernel must be one of linear, rbf; got 'cosine'"):
        cka_of_run(analysed.path, kernel="cosine")  # type: ignore[arg-type]


def test_stages_in_turn_are_the_stages_loaded_one_by_one(llava_folder: Path, tmp_path: Path) -> None:
    run = fit(tmp_path, small_method(llava_folder, DirLoRA), small_data(), callbacks=[]).run

    def fresh() -> DirLoRA:
        method = small_method(llava_folder, DirLoRA)
        assert isinstance(method, DirLoRA)
        introduce(method, small_data())
        method.prepare()
        return method

    walked = fresh()
    for state in restored_stages(walked, run):
        loaded = fresh()
        restore_method(loaded, run, stage=state.stage)
        assert differing(snapshot(walked), snapshot(loaded)) == []
        assert walked.learned == loaded.learned
    assert walked.learned == ["ScienceQA", "GQA"]


def run_of(root: Path, *tasks: str) -> Path:
    """A run folder with trained stages and nothing else."""
    run = RunFolder.create(root, "few", "", record=RunRecord(seed=0, config_digest="d", stream=["A", "B"]))
    for number, task in enumerate(tasks, start=1):
        run.plan_stage(number, task, {})
        run.save_stage(number, {"w": torch.ones(1)}, {})
    return run.path


@pytest.mark.parametrize(
    ("tasks", "through", "message"),
    [
        ((), "own", "has no trained stage yet"),
        (("A",), "own", "has 1 trained stages with a task of their own, and comparing tasks through their "),
        (("joint",), "own", "has 0 trained stages .*; with --through last all tasks go through one"),
        (("A",), "last", "has learned 1 task, and comparing tasks needs two"),
        ((), "last", "has no trained stage yet"),
        (("A", "B"), "3", "stage 3 of .* is not trained; trained stages: 1, 2"),
    ],
)
def test_a_run_with_too_little_in_it_is_refused_before_anything_is_loaded(
    say, tmp_path: Path, tasks: tuple[str, ...], through: str, message: str
) -> None:
    path = run_of(tmp_path, *tasks)
    status, out, err = say("analyze", "cka", "--run", path, "--through", through)
    assert (status, out, err.count("\n")) == (1, "", 1)
    with pytest.raises(ValueError, match=message):
        cka_of_run(path, through=int(through) if through.isdecimal() else through)  # type: ignore[arg-type]
    assert "lit_cvit analyze: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cak",), "unknown analysis 'cak'. Did you mean 'cka'? Known: "),
        (("cka",), "the following arguments are required: --run; `--help` lists the options"),
        (("cka", "--run", "x", "--kernal", "rbf"), "unknown option --kernal. Did you mean '--kernel'?"),
        (("cka", "--run", "x", "--kernel", "cosine"), "argument --kernel: invalid choice: 'cosine'"),
        (("cka", "--run", "x", "--at", "mlp"), "argument --at: invalid choice: 'mlp'"),
        (("cka", "--run", "x", "--samples", "few"), "argument --samples: invalid int value: 'few'"),
        (
            ("cka", "--run", "x", "--through", "-1"),
            "--through must be own, last or the number of a stage, got '-1'",
        ),
        (
            ("cka", "--run", "x", "--through", "first"),
            "--through must be own, last or the number of a stage, got 'first'",
        ),
        (("cka", "--run", "x", "--threshold", "-0.5"), "threshold must be at least 0, got -0.5"),
        (("cka", "--run", "no/such"), "no run folder no/such; no does not exist either"),
    ],
)
def test_a_wrong_command_has_one_message(say, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = say("analyze", *arguments)
    assert status in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"lit_cvit analyze: {message}")


def test_too_few_samples_are_refused(say, analysed: RunFolder) -> None:
    status, _, err = say("analyze", "cka", "--run", analysed.path, "--samples", "2")
    assert (status, err.count("\n")) == (1, 1)
    assert "CKA needs at least 3 samples of every task, got 2" in err


def test_help_lists_the_analyses_and_their_options(say) -> None:
    status, out, err = say("analyze", "--help")
    assert (status, err) == (0, "")
    assert "\n  cka       how alike the decoder represents tasks and stages" in out
    assert say("analyze") == (2, out, "")
    status, out, err = say("analyze", "cka", "--help")
    assert (status, err) == (0, "")
    assert all(f"  --{name} " in out for name in ("run", "kernel", "at", "through", "samples", "threshold"))
