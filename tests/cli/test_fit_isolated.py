"""`fit --data.isolated true`: a run for every task, each as if the task were the whole stream."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_kit import only_message

from lit_cvit.__main__ import main
from lit_cvit.backbones import Tiny
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import SeqLoRA
from lit_cvit.run import RunFolder
from lit_cvit.stream.trainer import ContinualTrainer

TASKS = ("ScienceQA", "GQA")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test are made in its own process, which has imported everything."""
    monkeypatch.setattr("lit_cvit.cli.isolated._in_process", lambda arguments: main(["fit", *arguments]))


def test_there_is_a_run_for_every_task_and_compare_gives_the_forward_transfer(
    say, here: None, small: Path, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("fit", "--config", "quickstart", "--config", small, "--data.isolated", "true")
    assert say(*command)[0] == 0
    runs = [RunFolder.open(tmp_path / "runs" / f"seqlora-cvit-mini-isolated-{task}") for task in TASKS]
    assert [run.record.stream for run in runs] == [["ScienceQA"], ["GQA"]]
    alone = [run.matrix().scores[0][0] for run in runs]
    own = [finished.matrix().scores[number][number] for number in (0, 1)]
    # The first task is learned from the same start on the same data.
    assert alone[0] == own[0]
    folders = [run.path for run in runs]
    status, out, _ = say("compare", finished.path, "--isolated", *folders)
    assert status == 0
    header, _, row = out.splitlines()[2:5]
    fwt = sum(a - b for a, b in zip(own, alone, strict=True)) / 2
    assert "ProgLoRA FWT" in header
    assert f"{fwt:.1f}" in row.split()


def test_a_run_that_fails_ends_the_rest(
    say, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr("lit_cvit.cli.isolated._in_process", lambda arguments: asked.append(arguments) or 7)
    assert say("fit", "--config", "quickstart", "--config", small, "--data.isolated", "true")[0] == 7
    assert len(asked) == 1


def test_other_verbs_name_the_remedy(say, small: Path) -> None:
    result = say("plan", "--config", "quickstart", "--config", small, "--data.isolated", "true")
    message = only_message(result, "plan")
    assert message.startswith("data.isolated:")
    assert "grid: {data.tasks: [['ScienceQA'], ['GQA']]}" in message


def test_a_fit_from_python_names_the_remedy(tmp_path: Path) -> None:
    trainer = ContinualTrainer(run_root=str(tmp_path), accelerator="cpu")
    data = ContinualDataModule(isolated=True)
    with pytest.raises(ValueError, match=r"data\.isolated: .*ContinualDataModule\(tasks="):
        trainer.fit(SeqLoRA(Tiny()), datamodule=data)


@pytest.mark.slow
def test_sigterm_reaches_the_run_that_is_made(small: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_cvit", "fit", "--config", "quickstart", "--config", str(small)]
    process = subprocess.Popen([*command, "--data.isolated=true", "--data.epochs=500"], cwd=tmp_path)
    log = tmp_path / "runs" / "seqlora-cvit-mini-isolated-ScienceQA" / "log.jsonl"
    for _ in range(1200):
        if log.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not (tmp_path / "runs" / "seqlora-cvit-mini-isolated-GQA").exists()
