"""`ddp_sharded_backbone` on two ranks, on the CPU: what a run promises beside what the method kit holds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.run import RunFolder, read_jsonl
from lit_cvit.testing import Row
from lit_cvit.testing.job import Job
from lit_cvit.testing.jobs import ranks_of
from lit_cvit.testing.kit import BATCH, Made, require_same_files, run_and_read, stored_files

pytestmark = pytest.mark.processes

SHARDED = "ddp_sharded_backbone"
HALVES: dict[str, Any] = {"batch_size": BATCH // 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava_folder(tmp_path_factory.mktemp("model"))


def files(job: Job) -> dict[str, bytes]:
    return stored_files(RunFolder.open(job.root / job.run))


def require_equal(made: Made, **changes: Any) -> None:
    """Two ranks with shards leave the bytes of two ranks without."""
    plain, shards = made.job("plain", **changes), made.job("shards", strategy=SHARDED, **changes)
    whole = run_and_read(*ranks_of(plain))[0]
    assert [each["held"] for each in run_and_read(*ranks_of(shards))] == [whole["held"] / 2] * 2
    require_same_files(files(shards), files(plain))


def test_a_killed_run_goes_on_bit_identical_and_one_process_reads_it(model: Path, tmp_path: Path) -> None:
    made = Made(Row("SMoLoRA"), tmp_path, model)
    whole = made.job("whole", data=HALVES, strategy=SHARDED)
    killed = made.job("killed", data=HALVES, strategy=SHARDED, kill_at=3)
    seen = run_and_read(*ranks_of(whole))[0]
    run_and_read(*ranks_of(killed))
    run_and_read(*ranks_of(replace(killed, kill_at=None, resume=True)))
    require_same_files(files(killed), files(whole))
    alone = run_and_read(replace(whole, name="alone", task="reload"))[0]
    assert torch.equal(alone["logits"], seen["logits"])


def test_a_run_without_shards_goes_on_with_them_bit_identical(model: Path, tmp_path: Path) -> None:
    made = Made(Row("HiDe"), tmp_path, model)
    whole, killed = made.job("whole", data=HALVES), made.job("killed", data=HALVES, kill_at=3)
    run_and_read(*ranks_of(whole))
    run_and_read(*ranks_of(killed))
    run_and_read(*ranks_of(replace(killed, kill_at=None, resume=True, strategy=SHARDED)))
    require_same_files(files(killed), files(whole))


def test_ranks_may_make_different_numbers_of_passes_forward_and_back(model: Path, tmp_path: Path) -> None:
    """Fisher information of five samples, and five answers in batches of two: a rank has one more.

    Layers are computed again in the backward passes, which must not gather once more.
    """
    row = Row("EWC", {"strength": 3e5, "fisher_samples": 5})
    again = {"activation_checkpointing": True}
    require_equal(Made(row, tmp_path, model), data={**HALVES, "eval_batch_size": 2}, backbone=again)


def test_a_rank_without_a_replayed_row_passes_all_the_same(model: Path, tmp_path: Path) -> None:
    term = {"class_path": "Replay", "init_args": {"form": "term", "batch_size": 1}}
    require_equal(Made(Row("SeqLoRA", callbacks=[term]), tmp_path, model), data=HALVES)


def test_a_micro_batch_without_a_row_of_the_memory_adds_nothing_to_its_gradient(
    model: Path, tmp_path: Path
) -> None:
    """Three rows of the memory in micro-batches of one: of the two of a rank, one is empty."""
    memory = {"class_path": "Replay", "init_args": {"form": "gradient", "batch_size": 3}}
    small = {"settings": {"num_train": 10, "num_test": 5}, "batch_size": 1}
    require_equal(Made(Row("AGEM", callbacks=[memory]), tmp_path, model), data=small)
    rows = read_jsonl(RunFolder.open(tmp_path / "plain" / "run").log_path)
    assert {row["agem/conflict"] for row in rows if "agem/conflict" in row} == {0.0, 1.0}


def test_a_text_only_batch_goes_back_through_the_layers_of_a_rank_that_trains_the_projector_alone(
    model: Path, tmp_path: Path
) -> None:
    """One sample a rank: one in five of the first task's has no image."""
    row = Row("SeqLoRA", {"targets": [], "projector": "full"})
    small = {"settings": {"num_train": 10, "num_test": 5}, "batch_size": 1}
    require_equal(Made(row, tmp_path, model), data=small)


def test_a_16_bit_decoder_in_mixed_precision_is_gathered_as_it_was(model: Path, tmp_path: Path) -> None:
    bits = {"backbone": {"dtype": "bfloat16"}, "trainer": {"precision": "bf16-mixed"}}
    require_equal(Made(Row("HiDe"), tmp_path, model), data=HALVES, **bits)


def test_the_command_line_starts_the_other_rank_and_plans_the_shards(model: Path, tmp_path: Path) -> None:
    arguments = ["--model", "SeqLoRA", "--model.backbone", "Llava", "--model.rank", "8"]
    arguments += ["--model.backbone.name_or_path", str(model), "--data.tasks", "[GQA]"]
    arguments += ["--data.settings", "{num_train: 8, num_test: 3}", "--data.batch_size", "2"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", SHARDED]
    done = subprocess.run(
        [sys.executable, "-m", "lit_cvit", "fit", *arguments, "--run_root", str(tmp_path), "--name", "pair"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("its layers divided among 2 ranks") == 1
    assert done.stdout.count("scores after stage 1") == 1
    assert RunFolder.open(tmp_path / "pair").record.world_size == 2
