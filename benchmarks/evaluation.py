"""Batched evaluation beside a loop over samples: the same texts, and how much sooner.

    python benchmarks/evaluation.py [--samples 100] [--rounds 5] [--json FILE]
    python benchmarks/evaluation.py --width 1024 --layers 4 --samples 24
    python benchmarks/evaluation.py --width 4096 --layers 32 --device cuda --dtype bfloat16

Without `--width` the model is `tiny`, which ends its answers itself; with it a LLaVA of random weights, which
says as many tokens as it may: 4 for a short answer, 20 for a caption. A batch has samples of like length. The
loop answers one sample after the other with the same code, as published evaluation scripts do; `first` is a
pass that also measures the lengths, as the first one of a run does, `later` one that knows them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rounds import machine, on_device, options, ratio, shown, take_turns, write_json
from wide import wide_llava

from lit_cvit import methods
from lit_cvit.backbones import Backbone, Llava, Tiny
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.measured import Measured
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluate_task, evaluating
from lit_cvit.methods import ContinualMethod

# Tokens that a model without an end token may say, by task.
BUDGETS = {"TextVQA": 4, "Flickr30k": 20}


class Passes:
    """A task's test split, answered in both ways."""

    def __init__(self, method: ContinualMethod, data: ContinualDataModule, task: Task, device: str) -> None:
        self.method, self.data, self.task, self.device = method, data, task, torch.device(device)

    def first(self) -> list[str]:
        """In batches, the lengths not yet known."""
        self.data.measured = Measured()
        return self.later()

    def later(self) -> list[str]:
        """In batches."""
        found = evaluate_task(self.method, self.data, self.task, device=self.device)
        return [row["text"] for row in found.rows]

    def loop(self) -> list[str]:
        """One sample at a time."""
        texts: list[str] = []
        with evaluating(self.method, self.device):
            for index in range(len(self.task.test)):
                batch = self.method.backbone.encode([self.task.test.sample(index)], with_answers=False)
                texts += self.method.generate(batch.to(self.device), max_new_tokens=self.task.decoding_budget)
        return texts


def measure(passes: Passes, rounds: int) -> dict[str, Any]:
    """Compare the texts, then take turns."""
    alone, batched = passes.loop(), passes.first()
    differing = sum(one != other for one, other in zip(alone, batched, strict=True))
    # 16-bit sums depend on the shape of a batch; in float32 the largest logit is the same one.
    if next(passes.method.backbone.model.parameters()).dtype == torch.float32:
        assert not differing, f"{differing} of {len(alone)} texts differ"
    ways: dict[str, Callable[[], Any]] = {
        "loop": passes.loop,
        "first": passes.first,
        "later": passes.later,
    }
    times = take_turns(ways, rounds, passes.device.type)
    gains = {name: ratio(times, "loop", name) for name in ("first", "later")}
    return {"seconds": times, "gain": gains, "differing": differing, "samples": len(alone)}


def make_backbone(args: argparse.Namespace, folder: Path) -> Backbone:
    if not args.width:
        return Tiny()
    return Llava(str(wide_llava(folder, args.width, args.layers)), dtype=args.dtype)


def main() -> None:
    """Compare, measure, print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--method", default="SeqLoRA")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
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
        print("task        loop (s)  in batches, first pass      a later pass            texts that differ")
        for name, budget in BUDGETS.items():
            task = data.benchmark.task(name)
            task = replace(task, max_new_tokens=budget) if args.width else task
            figures = found[name] = measure(Passes(method, data, task, args.device), args.rounds)
            seconds = sorted(figures["seconds"]["loop"])[args.rounds // 2]
            gains = "  ".join(f"{shown(figures['gain'][way]):22}" for way in ("first", "later"))
            print(f"{name:10}  {seconds:8.2f}  {gains}  {figures['differing']} of {figures['samples']}")
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
