"""Several ranks, on the CPU: what each run promises beside what the method kit already holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.run import RunFolder, read_jsonl
from lit_cvit.testing import Row
from lit_cvit.testing.job import Job
from lit_cvit.testing.jobs import JobFailed, ranks_of, run_jobs
from lit_cvit.testing.kit import (
    BATCH,
    Made,
    differing,
    require_like,
    require_same_files,
    run_and_read,
    stored_files,
)

pytestmark = pytest.mark.processes

CENTRED = Row("SMoLoRA", {"vu_center": True})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava_folder(tmp_path_factory.mktemp("model"))


def test_evaluation_on_two_ranks_equals_one_bit_for_bit(model: Path, tmp_path: Path) -> None:
    """Five samples in batches of three, so that one of the ranks has the shorter batch."""
    made = Made(Row("ZeroShot"), tmp_path, model)
    whole, pair = made.base, run_and_read(*ranks_of(made.job("pair")))[0]
    assert len(list(read_jsonl(RunFolder.open(whole["path"]).predictions_path(1, "GQA")))) == 5
    # The names hold digests: every process has the same.
    one, other = ({p.name for p in (Path(r["path"]) / "measurements").iterdir()} for r in (whole, pair))
    assert one == other
    require_same_files(
        stored_files(RunFolder.open(pair["path"])), stored_files(RunFolder.open(whole["path"]))
    )


def test_a_run_killed_on_two_ranks_goes_on_bit_identical(model: Path, tmp_path: Path) -> None:
    """Under SLURM's variables, where torchrun's had started it: the launcher makes no difference."""
    made = Made(CENTRED, tmp_path, model)
    halves = {"batch_size": BATCH // 2, "num_workers": 2}
    whole = run_and_read(*ranks_of(made.job("whole", data=halves)))
    killed = made.job("killed", data=halves, kill_at=3)
    run_and_read(*ranks_of(killed))
    again = run_and_read(*ranks_of(replace(killed, kill_at=None, resume=True, slurm=True)))
    require_same_files(
        stored_files(RunFolder.open(again[0]["path"])), stored_files(RunFolder.open(whole[0]["path"]))
    )
    record = RunFolder.open(again[0]["path"]).record
    assert record.world_size == 2


def test_a_text_only_batch_on_one_rank_is_no_problem(model: Path, tmp_path: Path) -> None:
    """One sample a rank: one in five of the first task's has no image, and it sums all the same."""
    made = Made(replace(CENTRED, settings={"vu_center": True, "projector": "full"}), tmp_path, model)
    small: dict[str, Any] = {"settings": {"num_train": 10, "num_test": 5}}
    single = run_and_read(made.job("single", data={**small, "batch_size": 2}))[0]
    pair = run_and_read(*ranks_of(made.job("pair", data={**small, "batch_size": 1})))
    assert differing(pair[0]["tensors"], pair[1]["tensors"]) == []
    require_like(pair[0], single)


def test_penalty_and_fisher_information_of_two_ranks_are_those_of_one(model: Path, tmp_path: Path) -> None:
    """Five samples, so that one of the ranks has more of them."""
    made = Made(Row("EWC", {"strength": 3e5, "fisher_samples": 5}), tmp_path, model)
    single = run_and_read(made.job("single", scored=False))[0]
    halves = {"batch_size": BATCH // 2}
    pair = run_and_read(*ranks_of(made.job("pair", data=halves, scored=False)))[0]
    rows = [list(read_jsonl(RunFolder.open(each["path"]).log_path)) for each in (single, pair)]
    terms = [[row["loss/ewc"] for row in each if "loss/ewc" in row] for each in rows]
    assert terms[0] == pytest.approx(terms[1], rel=0.02)
    assert terms[0][-1] > 0.01
    found = [
        torch.cat([t.flatten() for n, t in each["tensors"].items() if n.startswith("fisher.")])
        for each in (single, pair)
    ]
    assert float((found[0] - found[1]).norm()) <= 0.02 * float(found[0].norm())


def test_another_number_of_ranks_is_refused_with_the_reason(model: Path, tmp_path: Path) -> None:
    made = Made(Row("SeqLoRA"), tmp_path, model)
    job = made.job("one", kill_at=3)
    run_and_read(job)
    both = ranks_of(replace(job, kill_at=None, resume=True))
    with pytest.raises(AssertionError, match=r"it ran on 1 rank\(s\), now there are 2"):
        run_jobs(both)


def failures(*jobs: Job) -> list[str]:
    """The ends of the stack traces of processes that fail, by rank."""
    with pytest.raises(JobFailed):
        run_and_read(*jobs)
    return [job.failure.read_text(encoding="utf-8").splitlines()[-1] for job in jobs]


def test_a_loss_that_is_not_finite_ends_both_ranks_at_one_step_and_is_reported_once(
    model: Path, tmp_path: Path
) -> None:
    made = Made(Row("SeqLoRA", {"optimizer": {"learning_rate": 1e30}}), tmp_path, model)
    job = made.job("rate", data={"batch_size": BATCH // 2}, trainer={"gradient_clip_val": None})
    quiet, said = sorted(failures(*ranks_of(job)))
    assert quiet == "SystemExit: 1"
    assert "ValueError: stage 1 (ScienceQA), step 2 (row 1 of log.jsonl): loss/lm is " in said
    run = RunFolder.open(job.root / job.run)
    assert [row["step"] for row in read_jsonl(run.log_path)] == [0]


def test_a_broken_image_in_a_loader_worker_of_one_rank_ends_both_with_its_own_words(
    model: Path, tmp_path: Path
) -> None:
    """Eight rows in steps of four over two ranks: whichever rank meets the image, the other loses it."""
    names = {"train.jsonl": range(8), "test.jsonl": range(8, 9)}
    for name, numbers in names.items():
        rows = []
        for number in numbers:
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
            row = {"image": f"{number}.png", "question": "What?", "answers": [f"it is {number}"]}
            rows.append(json.dumps({"id": str(number), **row}))
        (tmp_path / name).write_text("\n".join(rows))
    whole = (tmp_path / "5.png").read_bytes()
    (tmp_path / "5.png").write_bytes(whole[: len(whole) // 2])
    task = {"name": "colour", "train": "train.jsonl", "test": "test.jsonl", "answer_format": "short"}
    task |= {"scorer": "short_answer", "image_root": ".", "instruction": "One word."}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump({"name": "broken", "tasks": [task]}))
    made = Made(Row("SeqLoRA"), tmp_path, model)
    own = {"benchmark": str(tmp_path / "bench.yaml"), "tasks": None, "settings": None}
    job = made.job("image", data={**own, "batch_size": 2, "num_workers": 1})
    quiet, said = sorted(failures(*ranks_of(job)), key=len)
    assert quiet == "SystemExit: 1"
    assert "train.jsonl, line 6 (id '5'): image '5.png' under " in said
    assert "not a readable image" in said


def command(model: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A real start from the command line, which starts the second rank by itself."""
    arguments = ["--model", "SeqLoRA", "--model.backbone", "Llava", "--model.rank", "8"]
    arguments += ["--model.backbone.name_or_path", str(model), "--data.tasks", "[GQA]"]
    arguments += ["--data.settings", "{num_train: 8, num_test: 3}", "--data.batch_size", "2"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    arguments += ["--run_root", str(root), "--name", "pair", *more]
    return subprocess.run(
        [sys.executable, "-m", "lit_cvit", "fit", *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_command_line_starts_the_other_rank(model: Path, tmp_path: Path) -> None:
    done = command(model, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scores after stage 1") == 1
    run = RunFolder.open(tmp_path / "pair")
    assert run.record.world_size == 2
    assert [row["step"] for row in read_jsonl(run.log_path)] == [0, 1]
    assert not (tmp_path / "pair-2").exists()


def test_the_error_of_one_rank_is_one_line_and_ends_all(model: Path, tmp_path: Path) -> None:
    dying = tmp_path / "dying_callback.py"
    dying.write_text(
        "from lightning.pytorch.callbacks import Callback\n\n\n"
        "class Dies(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_rank == 1:\n"
        "            raise ValueError('rank one ran out of luck')\n"
    )
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        done = command(model, tmp_path, "--trainer.callbacks+=dying_callback.Dies")
    finally:
        del os.environ["PYTHONPATH"]
    # The other rank lost its connection, which is no news.
    assert done.returncode == 1
    assert done.stderr.splitlines().count("lit_cvit fit: rank one ran out of luck") == 1, done.stderr
    assert "Traceback" not in done.stderr
