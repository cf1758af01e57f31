"""A sweep of tiny runs: a killed cell goes on, a failed one stops no other, and results are data."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lit_cvit.__main__ import main
from lit_cvit.report import run_summary
from lit_cvit.report.results import Result, read_result
from lit_cvit.report.results_page import render
from lit_cvit.run import RunFolder, Status
from lit_cvit.testing.kit import require_same_files, stored_files

pytestmark = pytest.mark.processes

# Two steps a stage. `Killed` and `Twin` differ in nothing but the name of a file that ends the process.
SWEEP = """\
run_root: runs
results: results/study
common: --config base.yaml
cells:
  Killed: --trainer.callbacks.flag kill
  Few: {{arguments: "--trainer.callbacks.flag never --data.tasks [VQAv2]", start_from: Killed}}
  Twin: --trainer.callbacks.flag never
  Broken: --trainer.callbacks.flag break --trainer.callbacks.kills false --trainer.callbacks.step 0
"""
BASE = """\
model:
  class_path: SeqLoRA
  init_args:
    backbone: {{class_path: Llava, init_args: {{name_or_path: {model}}}}}
    rank: 8
    alpha: 16
data:
  tasks: [ScienceQA, GQA]
  settings: {{num_train: 16, num_test: 2}}
  batch_size: 8
trainer:
  accelerator: cpu
  checkpoint_every_n_steps: 1
  callbacks:
  - class_path: StageEvaluation
    init_args: {{downstream: false}}
  - class_path: disturb.Disturb
    init_args: {{flag: never, step: 3, kills: true}}
"""


@dataclass
class Called:
    """What a call of the verb left.

    Attributes:
        status: Its exit status.
        lines: What it printed.
        fits: How often each cell was fitted so far.
    """

    status: int
    lines: list[str]
    fits: dict[str, int]


class Calls:
    """A folder with a sweep, in which the verb is called again and again."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd = folder, capfd

    def sweep(self, *arguments: str) -> Called:
        self.capfd.readouterr()
        status = main(["sweep", "study.yaml", *arguments])
        out, _ = self.capfd.readouterr()
        logs = sorted(self.folder.glob("runs/sweep/*/log.txt"))
        fits = {log.parent.name: log.read_text().count("lit_cvit fit --config") for log in logs}
        return Called(status, out.splitlines(), fits)

    def run(self, cell: str) -> RunFolder:
        return RunFolder.open(self.folder / "runs" / cell)

    def result(self, cell: str) -> Result:
        return read_result(self.folder / "results" / "study" / f"{cell}.json")


@pytest.fixture
def calls(
    tmp_path: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Calls:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llava_folder, "model")
    Path("study.yaml").write_text(SWEEP.format())
    Path("base.yaml").write_text(BASE.format(model="model"))
    return Calls(tmp_path, capfd)


def test_killed_and_failed_cells_go_on_with_the_next_call_and_leave_what_others_do(calls: Calls) -> None:
    Path("kill").touch()
    Path("break").touch()
    first = calls.sweep("--processes", "2")
    assert first.status == 1
    said = "\n".join(first.lines)
    assert "Killed-0: failed: killed by SIGKILL" in said
    assert "Few-0: failed: it starts from Killed-0" in said
    assert "Broken-0: failed: kittens (status 1); its output is in runs/sweep/Broken-0/log.txt" in said
    assert "Twin-0: done" in said
    assert first.lines[-1].startswith("4 cells: 1 done, 3 failed; about ")
    assert first.fits == {"Killed-0": 1, "Twin-0": 1, "Broken-0": 1}
    assert [stage.status for stage in calls.run("Killed-0").record.stages] == [
        Status.EVALUATED,
        Status.PLANNED,
    ]
    assert calls.run("Killed-0").checkpoint_path.is_file()

    Path("kill").unlink()
    written = Path("results/study/Twin-0.json").read_bytes()
    Path("results/study/Twin-0.json").unlink()
    second = calls.sweep("--processes", "2", "--only", "[KTF]*")
    assert second.status == 0
    # The results of a finished run are written again without a fit.
    assert Path("results/study/Twin-0.json").read_bytes() == written
    assert second.fits == {"Killed-0": 2, "Few-0": 1, "Twin-0": 1, "Broken-0": 1}
    require_same_files(stored_files(calls.run("Killed-0")), stored_files(calls.run("Twin-0")))
    source = calls.run("Few-0").record.start_from
    assert source is not None
    assert Path(source["path"]) == calls.run("Killed-0").path.resolve()

    check_results(calls)
    listed = calls.sweep("--list")
    assert listed.status == 0
    assert [line.split(",")[0].split(": failed")[0] for line in listed.lines[:-1]] == [
        "Killed-0: done",
        "Few-0: done",
        "Twin-0: done",
        "Broken-0",
    ]
    check_refusals(calls)


def check_results(calls: Calls) -> None:
    few, twin = calls.result("Few-0"), calls.result("Twin-0")
    assert (few.start_from, few.run["stream"], few.group, few.seed) == ("Killed-0", ["VQAv2"], "Few", 0)
    run = calls.run("Twin-0")
    assert twin.matrix == run.matrix()
    assert twin.metrics["AP"] == run_summary(run.matrix())["AP"]
    assert twin.metrics["MIF"] == run_summary(run.matrix())["MIF"]
    assert twin.run["config_digest"] == run.record.config_digest
    assert twin.config["model"]["init_args"]["rank"] == 8
    assert [(stage["task"], set(stage["seconds"])) for stage in twin.stages] == [
        ("ScienceQA", {"train", "evaluate"}),
        ("GQA", {"train", "evaluate"}),
    ]
    assert twin.stages[0]["facts"]["parameters"]["trainable"] > 0
    # Imports and a tiny model; one cell's memory is not added to another's.
    assert 2**27 < twin.measured["peak_memory"] < 2**32
    assert twin.measured["seconds"] > 0
    assert twin.run["versions"].keys() >= {"torch", "lit_cvit"}
    text = json.dumps([few.to_json(), twin.to_json()])
    assert str(calls.folder) not in text
    check_page(twin)


def check_page(twin: Result) -> None:
    """The results make tables; the killed cell's scores are the twin's."""
    marker = '<!-- results {"sweep": "study", "table": "tasks", "cells": ["Killed", "Twin"], "at": "end"} -->'
    page = render(f"{marker}\n<!-- end of results -->\n", Path("results"))
    row = " | ".join(f"{score:.1f}" for score in twin.matrix.scores[-1] if score is not None)
    assert page.splitlines()[2:6] == [
        "|  | seeds | ScienceQA | GQA |",
        "| --- | ---: | --- | --- |",
        f"| Killed | 1 | {row} |",
        f"| Twin | 1 | {row} |",
    ]


def check_refusals(calls: Calls) -> None:
    """A run folder of another configuration is left alone and named, with what differs."""
    before = stored_files(calls.run("Twin-0"))
    calls.capfd.readouterr()
    assert main(["sweep", "study.yaml", "--only", "Twin*", "--model.rank", "4"]) == 1
    err = calls.capfd.readouterr().err
    assert "runs/Twin-0 differs in model.init_args.rank (was 8, is 4)" in err
    assert "move them away" in err
    assert stored_files(calls.run("Twin-0")) == before
    (line, _) = calls.sweep("--list", "--only", "Twin*", "--model.rank", "4").lines
    assert line.startswith("Twin-0: to do, 2 of 2 stages: runs/Twin-0 differs in model.init_args.rank")
    assert main(["sweep", "study.yaml", "--only", "Few*", "--run_root", "other"]) == 2
    assert "starts from Killed-0, which is not finished" in calls.capfd.readouterr().err
