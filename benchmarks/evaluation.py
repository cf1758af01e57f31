"""Batched evaluation beside a loop over samples: the same texts, and how much sooner.

    python benchmarks/evaluation.py [--samples 100] [--rounds 5] [--merge] [--json FILE]
    python benchmarks/evaluation.py --width 1024 --layers 4 --samples 24
    python benchmarks/evaluation.py --width 1024 --layers 4 --samples 24 --image_positions 16 --caption 40
    python benchmarks/evaluation.py --width 4096 --layers 32 --device cuda --dtype bfloat16

Without `--width` the model is `tiny`, which ends its answers itself; with it a LLaVA of random weights, which
says as many tokens as it may: 4 for a short answer, `--caption` for a caption. With few positions an image,
decoding dominates, and that of one row is bound by reading the weights.

The loop answers one sample after the other with the search of transformers, as published evaluation scripts
do. In batches: `theirs` with that search, `first` a pass that also measures the lengths, as the first one of
a run does, `later` one that knows them, `merged` one with adapters merged (`--merge`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rounds import machine, on_device, options, ratio, shown, take_turns, write_json
from wide import wide_llava

from lit_cvit import methods
from lit_cvit.backbones import Backbone, Llava, Tiny, base
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.measured import Measured
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluate_task, evaluating
from lit_cvit.methods import ContinualMethod

TASKS = ("TextVQA", "Flickr30k")
# Tokens of a short answer of a model without an end token.
SHORT = 4


def search_of_transformers(model: Any, input_ids: torch.Tensor, on_drop: Any = None, **inputs: Any) -> Any:
    """The loop of transformers in place of ours."""
    return model._sample(input_ids, **inputs)


class Passes:
    """A task's test split, answered in both ways."""

    def __init__(self, method: ContinualMethod, data: ContinualDataModule, task: Task, device: str) -> None:
        self.method, self.data, self.task, self.device = method, data, task, torch.device(device)

    def first(self) -> list[str]:
        """In batches, the lengths not yet known."""
        self.data.measured = Measured()
        return self.later()

    def later(self, *, merge: bool = False) -> list[str]:
        """In batches."""
        found = evaluate_task(self.method, self.data, self.task, device=self.device, merge_adapters=merge)
        return [row["text"] for row in found.rows]

    def merged(self) -> list[str]:
        """In batches, adapters merged."""
        return self.later(merge=True)

    def theirs(self) -> list[str]:
        """In batches, with the search of transformers."""
        with mock.patch.object(base, "greedy_search", search_of_transformers):
            return self.later()

    def loop(self) -> list[str]:
        """One sample at a time, with the search of transformers."""
        texts: list[str] = []
        theirs = mock.patch.object(base, "greedy_search", search_of_transformers)
        with theirs, evaluating(self.method, self.device):
            for index in range(len(self.task.test)):
                batch = self.method.backbone.encode([self.task.test.sample(index)], with_answers=False)
                texts += self.method.generate(batch.to(self.device), max_new_tokens=self.task.decoding_budget)
        return texts


def measure(passes: Passes, rounds: int, *, merge: bool) -> dict[str, Any]:
    """Compare the texts, then take turns."""
    ways: dict[str, Callable[[], list[str]]] = {
        "loop": passes.loop,
        "theirs": passes.theirs,
        "first": passes.first,
        "later": passes.later,
    }
    if merge:
        ways["merged"] = passes.merged
    alone = passes.loop()
    differing = {
        name: sum(one != other for one, other in zip(alone, run(), strict=True)) for name, run in ways.items()
    }
    # 16-bit sums depend on the shape of a batch; in float32 the largest logit is the same one.
    if next(passes.method.backbone.model.parameters()).dtype == torch.float32:
        assert not any(differing.values()), f"of {len(alone)} texts differ {differing}"
    times = take_turns(ways, rounds, passes.device.type)
    gains = {name: ratio(times, "loop", name) for name in ways if name != "loop"}
    return {"seconds": times, "gain": gains, "differing": differing, "samples": len(alone)}


def make_backbone(args: argparse.Namespace, folder: Path) -> Backbone:
    if not args.width:
        return Tiny()
    return Llava(str(wide_llava(folder, args.width, args.layers, args.image_positions)), dtype=args.dtype)


def asked(task: Task, args: argparse.Namespace) -> Task:
    """A task with the number of tokens that a model without an end token may say."""
    budget = args.caption if task.name == TASKS[1] else SHORT
    return replace(task, max_new_tokens=budget) if args.width else task


def main() -> None:
    """Compare, measure, print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--method", default="SeqLoRA")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--image_positions", type=int, default=576)
    parser.add_argument("--caption", type=int, default=20)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--merge", action="store_true")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        method = getattr(methods, args.method)(
            make_backbone(args, Path(folder)), rank=args.rank, alpha=2 * args.rank
        )
        method.prepare()
        data = ContinualDataModule(settings={"num_test": args.samples}, eval_batch_size=args.batch)
        data.attach(method.backbone.encoder)
        method.begin_stage(data.stages(seed=0)[0])
        found = {}
        for name in TASKS:
            task = asked(data.benchmark.task(name), args)
            figures = found[name] = measure(
                Passes(method, data, task, args.device), args.rounds, merge=args.merge
            )
            print(f"{name}, {figures['samples']} samples: loop {seconds_of(figures, 'loop'):.2f} s")
            for way, gain in figures["gain"].items():
                differing = figures["differing"][way]
                print(
                    f"  {way:7} {seconds_of(figures, way):7.2f} s  {shown(gain):22} times  {differing} differ"
                )
    write_json(args.json, args, found)


def seconds_of(figures: dict[str, Any], way: str) -> float:
    return statistics.median(figures["seconds"][way])


if __name__ == "__main__":
    main()
