"""benchmarks/gpu_hours.py: the arithmetic of the plan on paper, by cases that are computed by hand."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SETTINGS: dict[str, Any] = {
    "model": {"init_args": {"rank": 2, "targets": ["ffn"]}},
    "data": {"epochs": 1, "global_batch_size": 8},
}


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module("gpu_hours")


def assumed(paper: ModuleType, **changes: Any) -> Namespace:
    """Assumptions in round numbers."""
    values = {
        "factors": dict(paper.FACTORS),
        "pace": 1e12,
        "bandwidth": 1.0,
        "token_seconds": 0.0,
        "text": 24,
        "eval_batch": 4,
        "checkpointing": False,
    }
    return Namespace(**values | changes)


def planned(paper: ModuleType, extra: Any, **changes: Any) -> Any:
    """Two tasks of 50 and 30 samples, 9 and 5 test samples, and a held-out one of 3."""
    stream = [paper.Split(50, 9, 4), paper.Split(30, 5, 4)]
    return paper.plan(SETTINGS, extra, stream, [paper.Split(0, 3, 2)], assumed(paper, **changes))


def test_a_layer_takes_two_operations_a_weight_forward_four_in_all_and_six_for_what_trains(
    paper: ModuleType,
) -> None:
    layer = paper.Model(rank=2, targets=["ffn"], layers=1)
    assert layer.weights == 4 * 4096 * 4096 + 3 * 4096 * 11008 == 202_375_168
    assert layer.adapters(2) == 2 * 3 * (4096 + 11008) == 90_624
    # Ten positions attend to half of ten on average, in two products of 4096.
    attention = 2 * 2 * 10 * 5 * 4096
    assert layer.forward(10) == 2 * (202_375_168 + 90_624) * 10 + attention
    assert layer.step(10) == (4 * 202_375_168 + 6 * 90_624) * 10 + 3 * attention
    assert layer.step(10, twice=True) == layer.step(10) + layer.forward(10)


def test_gpus_share_steps_and_whole_batches_and_send_gradients_round_a_ring(paper: ModuleType) -> None:
    made = paper.Plan(training=100.0, steps=10, batches=((5, 2.0), (4, 1.0)), gradient_bytes=3e9)
    assert made.seconds(1, link=1) == 100 + 5 * 2 + 4 * 1
    assert made.seconds(2, link=1) == 50 + 10 * 2 * (1 / 2) * 3 + 3 * 2 + 2 * 1
    assert made.seconds(4, link=1) == 25 + 10 * 2 * (3 / 4) * 3 + 2 * 2 + 1 * 1


def test_every_task_is_tested_after_each_stage_from_its_own_on_and_held_out_ones_once(
    paper: ModuleType,
) -> None:
    plain, joint = planned(paper, paper.Extra()), planned(paper, paper.Extra(joint=True))
    assert [number for number, _ in plain.batches] == [3, 3, 2, 1]
    assert [number for number, _ in joint.batches] == [3, 2, 1]
    assert (plain.steps, joint.steps) == (7 + 4, 10)
    assert joint.training == plain.training


def test_a_batch_of_answers_is_its_prompts_and_then_reads_weights_and_keys_for_every_token(
    paper: ModuleType,
) -> None:
    made, model = planned(paper, paper.Extra()), paper.Model(2, ["ffn"])
    prompt = model.forward(600) + 2 * 4096 * 32000 + 2 * 303e6 * 577
    read = 2 * (32 * 202_375_168 + 4096 * 32000) + 4 * 600 * 2 * 2 * 32 * 4096
    assert made.batches[0][1] == pytest.approx((4 * prompt + 4 * read) / 1e12)
    slow = planned(paper, paper.Extra(), token_seconds=7.0)
    assert slow.batches[0][1] == pytest.approx(4 * prompt / 1e12 + 4 * 7)


def test_what_a_method_passes_again_is_counted_in_samples(paper: ModuleType) -> None:
    plain, tower = planned(paper, paper.Extra()).training, 2 * 303e6 * 577 / 1e12
    learned = plain / 80
    forward = paper.Model(2, ["ffn"]).forward(604) / 1e12 + 4 * 2 * 4096 * 32000 / 1e12 + tower
    more = {
        paper.Extra(replayed=100): 100 * learned,
        paper.Extra(forward=1): 30 * forward,
        paper.Extra(tower=1): 80 * tower,
        paper.Extra(forward_rows=128): 2 * 128 * forward,
    }
    found = {extra: planned(paper, extra).training - plain for extra in more}
    assert found == pytest.approx(more)
    assert planned(paper, paper.Extra(replayed=100)).steps == 7 + 17
    # EWC's gradients need neither the optimizer nor another batch.
    fisher = planned(paper, paper.Extra(learned_rows=128)).training - plain
    around = 6 * 21e6 * 576 / 1e12
    assert 2 * 128 * (learned - around) < fisher < 2 * 128 * (learned + around)


def test_published_counts_give_the_answers_of_cvit(paper: ModuleType) -> None:
    stream, held_out = paper.splits({"benchmark": "cvit", "settings": {}})
    assert stream[0] == paper.Split(12_726, 4_241, 2)
    asked = [split.asked for split in stream]
    assert sum(number * times for number, times in zip(asked, range(6, 0, -1), strict=True)) == 148_396
    assert sum(split.asked for split in held_out) == 107_411


def test_a_measured_step_gives_the_pace_and_the_methods_costs(paper: ModuleType, tmp_path: Path) -> None:
    settings = {"device": "cuda", "batch": "4", "length": "256", "rank": "128", "layers": "32"}
    row = {"seconds": [0.5, 0.4, 9.0], "over": {"LoRA": [1.0, 1.25, 1.5]}}
    found = {"LoRA": {**row, "over": {"LoRA": [1.0, 1.0, 1.0]}}, "SMoLoRA": row, "bare": row}
    path = tmp_path / "steps.json"
    path.write_text(json.dumps({"settings": {**settings, "width": "4096"}, "found": found}))
    args = Namespace(
        steps=path, step_seconds=None, step_batch=1, step_length=1, factors={"SMoLoRA": 1.09, "LoRA": 1.0}
    )
    assert paper.pace_of(args) == 4 * paper.Model(128, ["ffn"]).step(256) / 0.5
    assert args.factors == {"SMoLoRA": 1.25, "LoRA": 1.0}


def test_every_experiment_of_a_method_that_trains_has_a_plan(paper: ModuleType) -> None:
    methods = {
        line.split("--config methods/")[1].split()[0]
        for path in paper.EXPERIMENTS.glob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "--config methods/" in line
    }
    assert methods - {"zero_shot"} == paper.EXTRAS.keys()
