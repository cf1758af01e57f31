"""The shipped configuration of every method: its header, what it leaves alone, and combinations that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_cvit.cli.shipped import CONFIGS
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.methods import ProgLoRADynamic
from lit_cvit.run import RunFolder, read_jsonl

METHODS = sorted(path.stem for path in (CONFIGS / "methods").glob("*.yaml"))
PAPER = r"arXiv \d{4}\.\d{5}|ACL 2025, 143|findings-acl|published code|baseline of CoIN"
BOUNDS = ("multitask", "zero_shot")


@pytest.mark.parametrize("name", METHODS)
def test_the_header_names_the_paper_and_the_command(name: str) -> None:
    lines = (CONFIGS / "methods" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[: lines.index("model:")] if line.startswith("# ")]
    assert len(header) == lines.index("model:") >= 2
    assert f"# python -m lit_cvit fit --config quickstart --config methods/{name}" in header
    source = re.search(
        r"arXiv \d{4}\.\d{5}|ACL 2025, 143|findings-acl|published code|baseline of CoIN", header[0]
    )
    assert source or (name in BOUNDS and "bound" in header[0])


@pytest.mark.parametrize("name", METHODS)
def test_callbacks_of_earlier_configurations_stay(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("trainer: {callbacks: [{class_path: LambdaCallback}]}\n")
    arguments = ["--config", "quickstart", "--config", str(mine), "--config", f"methods/{name}"]
    cli = StreamCLI(arguments, run=False)
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert "LambdaCallback" in names
    assert set(cli.model.requires_callbacks) <= set(names)


def fitted(say: Any, root: Path, name: str) -> RunFolder:
    """Two stages of two steps; of four in the second where all 8 rows of the first come back."""
    data = ["--data.tasks", "[ScienceQA,GQA]", "--data.settings", "{num_train: 8, num_test: 2}"]
    more = ["--data.batch_size", "4", "--run_root", str(root), "--name", name]
    status, _, err = say("fit", "--config", "quickstart", "--config", f"methods/{name}", *data, *more)
    assert status == 0, err
    return RunFolder.open(root / name)


def test_a_method_of_its_own_runs_with_the_average_of_another(say: Any, tmp_path: Path) -> None:
    run = fitted(say, tmp_path, "smolora_ema")
    (shares,) = (state["dynamic_share"] for state in run.load_stage(2).extra["callbacks"].values() if state)
    # In the first stage blocks are new, so nothing is averaged.
    assert list(shares) == ["2"]
    logged = [any(name.startswith("ema/beta") for name in row) for row in read_jsonl(run.log_path)]
    assert logged == [False, False, True, True]


def test_replay_makes_the_later_stage_longer(say: Any, tmp_path: Path) -> None:
    run = fitted(say, tmp_path, "seq_lora_replay")
    assert [run.record.stage(number).facts["steps"] for number in (1, 2)] == [2, 4]
    assert run.record.facts["access"] == "old data"


def test_prog_lora_goes_without_its_recall(say: Any, tmp_path: Path) -> None:
    run = fitted(say, tmp_path, "prog_lora_no_recall")
    rows = list(read_jsonl(run.log_path))
    assert [{name for name in row if name.startswith("loss/")} for row in rows] == [{"loss/lm"}] * 4
    assert run.record.facts["access"] == "nothing beyond the prompt and image"
    cli = StreamCLI(["--config", str(run.config_path)], run=False)
    assert isinstance(cli.model, ProgLoRADynamic)
    assert cli.model.requires_callbacks == ()
