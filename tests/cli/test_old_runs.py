"""Runs of the version before the modules were moved, in `tests/old_runs`: what they answered, they answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_cvit.commands.analyze.cka import cka_of_run
from lit_cvit.commands.analyze.routing import routing_of_run
from lit_cvit.report.routing import routing_json
from lit_cvit.run import RunFolder, RunRecord, migrate_config, read_json, read_jsonl
from lit_cvit.stream.restore import open_run

OLD = Path(__file__).parents[1] / "old_runs"
RUNS = sorted(path.name for path in (OLD / "runs").iterdir())
TASKS = ("colour", "shape")
FIELDS = ("id", "prompt", "text", "score", "format_ok")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old runs with their backbone and data, in a folder of their own."""
    return Path(shutil.copytree(OLD, tmp_path_factory.mktemp("old") / "runs_of_before"))


@pytest.fixture(autouse=True)
def beside(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their configurations name backbone and data by paths relative to that folder."""
    monkeypatch.chdir(copied)


def rows(path: Path) -> list[dict[str, Any]]:
    return [{field: row[field] for field in FIELDS} for row in read_jsonl(path)]


def config_now(name: str, **changes: Any) -> str:
    """The configuration of a run as this version writes it, with settings of the model changed."""
    config = migrate_config(yaml.safe_load((OLD / "runs" / name / "config.yaml").read_text()), schema=1)
    config["model"]["init_args"] |= changes
    return yaml.safe_dump(config)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_tested_and_asked_as_it_was(say, tmp_path: Path, name: str) -> None:
    status, _, err = say("test", "--run", f"runs/{name}", "--out", tmp_path)
    assert (status, err) == (0, "")
    for task in TASKS:
        recorded = rows(OLD / "runs" / name / "stages" / "02-shape" / "predictions" / f"{task}.jsonl")
        assert rows(tmp_path / f"{task}.jsonl") == recorded
    asked = ("--image", "data/images/blue-circle.png", "--question", "Which colour is the circle?")
    asked += ("--instruction", "Answer with one word.", "--task", "colour", "--max_new_tokens", "12")
    status, out, err = say("predict", "--run", f"runs/{name}", *asked)
    assert (status, err) == (0, "")
    assert out == (OLD / "expected" / name / "predict.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_analysed_as_it_was(name: str) -> None:
    recorded = read_json(OLD / "expected" / name / "cka.json")
    report = cka_of_run(f"runs/{name}", num_samples=4).to_json()
    assert report["stages"] == recorded["stages"] == {"colour": 1, "shape": 2}
    for got, expected in zip(report["cka"], recorded["cka"], strict=True):
        assert got == [pytest.approx(row, rel=1e-4) for row in expected]
    (traced,) = map(routing_json, routing_of_run(f"runs/{name}", stage=2, num_samples=4))
    for got, expected in zip(
        traced["tasks"], read_json(OLD / "expected" / name / "routing.json")["tasks"], strict=True
    ):
        assert got["task"] == expected["task"]
        assert got["banks"].keys() == expected["banks"].keys()
        for bank, facts in expected["banks"].items():
            assert got["banks"][bank]["gate"] == pytest.approx(facts["gate"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["smolora", "prog_lora_static"])
def test_resuming_an_old_run_is_refused_by_name(say, tmp_path: Path, name: str) -> None:
    config = tmp_path / "same.yaml"
    config.write_text(config_now(name))
    before = sorted(Path("runs").iterdir())
    status, _, err = say("fit", "--config", config, "--name", name, "--ckpt_path", "last")
    assert status == 1
    for part in (f"runs/{name} ", "schema version 1, now 2", "cannot be resumed", "--start_from", "--name"):
        assert part in err
    assert sorted(Path("runs").iterdir()) == before


def resumed(root: Path, config_text: str, digest: str = "new", **more: Any) -> RunFolder:
    record = RunRecord(seed=0, config_digest=digest, method="LCIA", benchmark="drawn")
    run = open_run(record, root=str(root), name=None, config_text=config_text, resume=True, **more)
    run.writer.unlock()
    return run


def test_an_old_run_is_recognised_by_the_settings_that_both_versions_have(tmp_path: Path) -> None:
    shutil.copytree(OLD / "runs" / "lcia", tmp_path / "lcia")
    for text in (config_now("lcia"), config_now("lcia", new_option=3)):
        with pytest.raises(ValueError, match="lcia is a run of this configuration by an earlier version"):
            resumed(tmp_path, text)
    with pytest.raises(ValueError, match="lcia is a run of this configuration by an earlier version"):
        resumed(tmp_path, "", RunFolder.open(tmp_path / "lcia").record.config_digest)
    # Another configuration, and then a run of this version: neither is the old one's business.
    assert resumed(tmp_path, config_now("lcia", rank=2)).path.name == "lcia-drawn"
    assert resumed(tmp_path, config_now("lcia", rank=2)).path.name == "lcia-drawn"


def test_a_new_run_continues_an_old_one(say, tmp_path: Path) -> None:
    config = tmp_path / "further.yaml"
    config.write_text(config_now("prog_lora_static"))
    further = ("--start_from", "runs/prog_lora_static", "--data.tasks", "[shape]", "--data.epochs", "1")
    status, _, _ = say("fit", "--config", config, *further, "--run_root", tmp_path, "--name", "further")
    assert status == 0
    run = RunFolder.open(tmp_path / "further")
    assert run.record.start_from is not None
    assert [plan["task"] for plan in run.record.start_from["plans"]] == ["colour", "shape"]
    old = RunFolder.open("runs/prog_lora_static").load_stage(2).tensors
    new = run.load_stage(1).tensors
    blocks = {name for name in old if ".blocks." in name}
    assert len(blocks) > 8
    assert [name for name in blocks if not old[name].equal(new[name])] == []
    assert any(".blocks.2." in name for name in new)
