"""One writer of a task at a time, and none that outlives `prepare`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from raw_kit import CVIT, prepared

from lit_cvit.data.prepare.storing import only_writer

# Worker processes import the script again, and so wait as well.
SLOW = """
import sys, time
from pathlib import Path
from lit_cvit.data.prepare import running
from lit_cvit.data.prepare.base import Request
from lit_cvit.data.prepare.storing import only_writer

def wait(converter, request, advance):
    folder = request.out / converter.task
    folder.mkdir(parents=True)
    with only_writer(folder):
        (folder / "started").touch()
        time.sleep(60)

running.prepare_task = wait
if __name__ == "__main__":
    request = Request("cvit", Path(sys.argv[1]), Path(sys.argv[2]))
    running.prepare(request, tasks=["GQA", "VizWiz"], workers=2)
"""


def is_written(folder: Path) -> bool:
    try:
        with only_writer(folder):
            return False
    except ValueError:
        return True


def wait_until(done: list[Path], *, written: bool) -> None:
    end = time.monotonic() + 30
    while not all((folder / "started").exists() and is_written(folder) == written for folder in done):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_end_when_prepare_is_killed(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for task in ("GQA", "VizWiz"):
        CVIT[task](raw)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    with subprocess.Popen([sys.executable, script, raw, out], stderr=subprocess.DEVNULL) as process:
        folders = [out / "GQA", out / "VizWiz"]
        wait_until(folders, written=True)
        process.kill()
    wait_until(folders, written=False)
    rows, _ = prepared(raw, out, "GQA")
    assert len(rows["train"]) == 3


def test_a_task_that_another_process_writes_is_refused_and_left_alone(tmp_path: Path) -> None:
    CVIT["GQA"](tmp_path / "raw")
    (tmp_path / "out/GQA").mkdir(parents=True)
    with only_writer(tmp_path / "out/GQA"):
        with pytest.raises(ValueError, match=r"out/GQA: another `prepare` is writing this task; wait until"):
            prepared(tmp_path / "raw", tmp_path / "out", "GQA")
        assert [path.name for path in (tmp_path / "out/GQA").iterdir()] == ["manifest.json.part"]


def test_part_files_of_one_that_was_killed_are_written_over(tmp_path: Path) -> None:
    CVIT["GQA"](tmp_path / "raw")
    (tmp_path / "out/GQA").mkdir(parents=True)
    for name in ("manifest.json.part", "train.jsonl.part"):
        (tmp_path / "out/GQA" / name).write_text("half" * 1000)
    rows, _ = prepared(tmp_path / "raw", tmp_path / "out", "GQA")
    assert len(rows["train"]) == 3
    left = {path.name for path in (tmp_path / "out/GQA").iterdir()}
    assert left == {"manifest.json", "test.jsonl", "train.jsonl"}
