"""Crashes and full disks at every boundary of a run's writes."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest
import torch
from run_kit import TASKS, KillAt, Killed, make_run, new_record, score

from lit_cvit.run import Fault, RunFolder, StageScores, Status, Writer, newest_run, read_jsonl


def stream(root: Path, fault: Fault) -> RunFolder:
    """A small training loop that goes on from whatever it finds, as `--ckpt_path last` does."""
    writer = Writer(fault=fault)
    run = newest_run(root, "digest", writer=writer, verify=True)
    if run is None:
        run = RunFolder.create(root, "quick", "seed: 0\n", record=new_record(), writer=writer)
    else:
        run.refresh()
    for stage, task in enumerate(TASKS, start=1):
        if stage > len(run.record.stages):
            run.plan_stage(stage, task, {"grow": stage})
        if stage not in run.stages_done():
            writer.truncate_jsonl(run.log_path, lambda row, stage=stage: row["stage"] < stage)
            run.log({"stage": stage, "loss": 0.5})
            run.save_stage(stage, {"w": torch.full((8,), float(stage))}, {"n": stage}, extra={"step": stage})
        if run.record.stage(stage).status is not Status.EVALUATED:
            path = run.predictions_path(stage, task)
            num_kept = len(list(read_jsonl(path)))
            for index in range(num_kept, 3):
                writer.append_line(path, {"id": index})
            run.save_scores(StageScores(stage, task, {task: score(float(stage))}))
    return run


def contents(run: RunFolder) -> dict[str, bytes]:
    run.writer.clear_leftovers(run.path)
    return {
        str(path.relative_to(run.path)): path.read_bytes() for path in run.path.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    fault = KillAt(None)
    run = stream(tmp_path_factory.mktemp("whole"), fault)
    return fault.count, contents(run)


def test_the_fault_reaches_every_file_of_a_run(
    tmp_path: Path, uninterrupted: tuple[int, dict[str, bytes]]
) -> None:
    touched: set[str] = set()
    root = tmp_path / "runs"

    def note(event: str, path: Path) -> None:
        touched.add(str(path.relative_to(root / "quick")))

    stream(root, note)
    assert touched == uninterrupted[1].keys()


def test_a_crash_at_any_boundary_leaves_a_readable_run_that_ends_the_same(
    tmp_path: Path, uninterrupted: tuple[int, dict[str, bytes]]
) -> None:
    num_events, expected = uninterrupted
    for number in range(num_events):
        root = tmp_path / str(number)
        with pytest.raises(Killed):
            stream(root, KillAt(number))
        left = newest_run(root, "digest", verify=True)
        if left is not None:
            for stage in left.stages_done():
                assert left.load_stage(stage).tensors["w"].tolist() == [float(stage)] * 8
            left.matrix()
        assert contents(stream(root, KillAt(None))) == expected, f"killed at event {number}"


def test_a_crash_while_a_stage_is_saved_again_never_leaves_a_mixture(tmp_path: Path) -> None:
    number, killed = 0, True
    while killed:
        run = make_run(tmp_path / str(number))
        again = RunFolder.open(run.path, writer=Writer(fault=KillAt(number)))
        try:
            again.save_stage(1, {"w": torch.full((4,), 2.0)}, {"blocks": 2})
            killed = False
        except Killed:
            number += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            left = RunFolder.open(run.path)
        if left.stages_done():
            stage = left.load_stage(1)
            assert (stage.tensors["w"][0].item(), stage.state["blocks"]) in {(1.0, 1), (2.0, 2)}
    assert number == 14


@pytest.mark.parametrize("event", ["before", "middle"])
@pytest.mark.parametrize("name", ["method.safetensors", "method.json", "manifest.json", "run.json"])
def test_a_disk_that_fills_up_while_a_stage_is_saved_can_be_retried(
    tmp_path: Path, event: str, name: str
) -> None:
    run = make_run(tmp_path)
    run.plan_stage(2, "OCR/VQA", {})

    def full(now: str, path: Path) -> None:
        if (now, path.name) == (event, name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    broken = RunFolder.open(run.path, writer=Writer(fault=full))
    with pytest.raises(OSError, match="No space left"):
        broken.save_stage(2, {"w": torch.ones(2)}, {})
    assert not list(run.path.rglob(".*.tmp"))
    left = RunFolder.open(run.path, verify=True)
    assert left.stages_done() == ([1, 2] if name == "run.json" else [1])
    left.save_stage(2, {"w": torch.ones(2)}, {})
    assert RunFolder.open(run.path, verify=True).stages_done() == [1, 2]
