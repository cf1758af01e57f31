"""Configurations: shipped names, merging, appending, and what a run's own config.yaml reproduces."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from callbacks import StageEvaluation, StreamProgress
from lit_cvit import methods
from lit_cvit.cli.shipped import CONFIGS, find_config
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.methods import DirLoRA, SeqLoRA, SMoLoRA
from lit_cvit.run import RunFolder

SHIPPED = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
STREAMS = [name for name in SHIPPED if name != "pretrain_tiny" and not name.startswith("sweeps/")]


def build(*arguments: object) -> StreamCLI:
    """Parse and build as `check` does; nothing is trained."""
    return StreamCLI([str(argument) for argument in arguments], run=False)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.compat
def test_every_shipped_configuration_builds(name: str) -> None:
    here = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
    cli = build("--config", "quickstart", "--config", name, *here)
    assert type(cli.model).__name__ in set(methods.__all__) - {"ContinualMethod"}


@pytest.mark.parametrize("spelling", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_a_shipped_configuration_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(spelling).samefile(CONFIGS / "quickstart.yaml")
    assert isinstance(build(f"--config={spelling}").model, SMoLoRA)


def test_a_file_in_the_current_folder_comes_before_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("data: {batch_size: 5}\n")
    assert find_config("quickstart") == Path("quickstart")


@pytest.mark.compat
def test_later_configurations_and_then_the_command_line_win(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("data: {batch_size: 5, eval_batch_size: 6}\nmodel: {init_args: {rank: 16}}\n")
    second.write_text("data: {eval_batch_size: 7, epochs: 2}\n")
    arguments = ("--config", "quickstart", "--config", first, "--config", second, "--data.epochs", "3")
    data = build(*arguments).config["data"]
    assert (data["batch_size"], data["eval_batch_size"], data["epochs"]) == (5, 7, 3)
    method = build(*arguments).model
    assert isinstance(method, SMoLoRA)
    assert (method.rank, method.alpha) == (16, 64)


@pytest.mark.compat
def test_another_method_keeps_the_settings_that_it_shares(tmp_path: Path) -> None:
    method = build("--config", "quickstart", "--model", "SeqLoRA").model
    assert type(method) is SeqLoRA
    assert (method.rank, method.alpha, method.settings.learning_rate) == (32, 64, 3e-3)
    assert type(method.backbone).__name__ == "Tiny"


def test_a_method_may_stand_in_a_file_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    (folder / "methods").mkdir(parents=True)
    (folder / "methods" / "dir.yaml").write_text(
        "class_path: DirLoRA\ninit_args: {backbone: {class_path: Tiny}, rank: 4}\n"
    )
    (folder / "run.yaml").write_text("model: methods/dir.yaml\ndata: {benchmark: cvit-mini}\n")
    monkeypatch.chdir(tmp_path)
    method = build("--config", "mine/run.yaml").model
    assert type(method) is DirLoRA
    assert method.rank == 4


def test_evaluation_and_progress_are_added_unless_they_are_named(tmp_path: Path) -> None:
    callbacks = build("--config", "quickstart").trainer.callbacks
    assert [type(each) for each in callbacks] == [StageEvaluation, StreamProgress]
    arguments = (
        "--config",
        "quickstart",
        "--trainer.callbacks+=StageEvaluation",
        "--trainer.callbacks.tasks=last",
    )
    callbacks = build(*arguments).trainer.callbacks
    assert [type(each) for each in callbacks] == [StageEvaluation, StreamProgress]
    assert callbacks[0].tasks == "last"


@pytest.mark.compat
def test_callbacks_plus_appends_across_configurations(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("trainer: {callbacks: [{class_path: StageEvaluation, init_args: {tasks: all}}]}\n")
    second.write_text("trainer: {callbacks+: [{class_path: LambdaCallback}]}\n")
    cli = build("--config", "quickstart", "--config", first, "--config", second)
    names = [type(each).__name__ for each in cli.trainer.callbacks]
    assert names == ["StageEvaluation", "LambdaCallback", "StreamProgress"]
    assert cli.trainer.callbacks[0].tasks == "all"


def test_seed_name_root_and_source_reach_the_trainer(tmp_path: Path) -> None:
    options = (
        "--seed_everything",
        "7",
        "--name",
        "n",
        "--run_root",
        tmp_path,
        "--start_from",
        tmp_path / "x",
    )
    trainer = build("--config", "quickstart", *options).trainer
    found = (trainer.seed, trainer.run_name, trainer.run_root, trainer.start_from)
    assert found == (7, "n", str(tmp_path), str(tmp_path / "x"))


def test_the_resolved_configuration_does_not_depend_on_name_and_root() -> None:
    plain = build("--config", "quickstart")
    named = build("--config", "quickstart", "--name", "n", "--run_root", "elsewhere")
    assert plain.trainer.config_text == named.trainer.config_text
    assert plain.trainer.config_digest == named.trainer.config_digest
    other = build("--config", "quickstart", "--seed_everything", "1")
    assert other.trainer.config_digest != plain.trainer.config_digest


def test_the_run_is_recorded_under_its_name_and_seed(finished: RunFolder) -> None:
    assert (finished.path.name, finished.record.seed, finished.record.method) == ("two", 0, "SeqLoRA")
    assert finished.record.stream == ["ScienceQA", "GQA"]


def test_config_yaml_of_a_run_is_whole_and_names_neither_run_nor_checkpoint(finished: RunFolder) -> None:
    config = yaml.safe_load(finished.config_path.read_text())
    assert set(config) == {"seed_everything", "trainer", "model", "data", "start_from"}
    assert "run_name" not in config["trainer"]
    assert "run_root" not in config["trainer"]
    assert config["model"]["init_args"]["rank"] == 8
    assert config["data"]["settings"] == {"num_train": 12, "num_test": 6}


def test_config_yaml_of_a_run_runs_again_to_the_same_end(say, finished: RunFolder, tmp_path: Path) -> None:
    root = ("--run_root", tmp_path, "--name", "again")
    status, out, _ = say("fit", "--config", finished.config_path, *root, "--seed_everything", "0")
    assert status == 0
    again = RunFolder.open(tmp_path / "again", verify=True)
    assert again.config_path.read_text() == finished.config_path.read_text()
    assert again.record.config_digest == finished.record.config_digest
    assert again.matrix() == finished.matrix()
    for name in ("stages/01-ScienceQA", "stages/02-GQA"):
        files = ["method.safetensors", *(f"predictions/{task}.jsonl" for task in ("ScienceQA",))]
        for file in files:
            assert (again.path / name / file).read_bytes() == (finished.path / name / file).read_bytes()
    # What a person sees where there is no terminal: a header, stages, the matrix, and where the run is.
    assert "stream    cvit-mini: ScienceQA > GQA" in out
    assert "stage 2/2: GQA, 12 samples, 3 steps" in out
    assert "scores after stage 2" in out
    assert str(tmp_path / "again") in out


def test_an_existing_folder_is_not_overwritten_and_a_run_starts_from_another(
    say, finished: RunFolder, small: Path, tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    options = ("--data.tasks", "[Places365]", "--data.settings", "{shots: 1, num_test: 8}")
    where = ("--run_root", tmp_path, "--name", "few", "--start_from", finished.path)
    status, *_ = say("fit", "--config", "quickstart", "--config", small, *options, *where)
    assert status == 0
    assert list((tmp_path / "few").iterdir()) == []
    run = RunFolder.open(tmp_path / "few-2")
    assert run.record.start_from is not None
    assert Path(run.record.start_from["path"]).samefile(finished.path)
    assert run.record.stream == ["Places365"]
    scores = run.scores(1)
    assert scores is not None
    assert scores.tasks["Places365"].count == 8
    assert yaml.safe_load(run.config_path.read_text())["start_from"] == str(finished.path)
