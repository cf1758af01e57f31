r"""A plan on paper: GPU hours of the papers' experiments at LLaVA-1.5-7B, by method and benchmark.

    python benchmarks/gpu_hours.py [--only smolora_cvit_single hide_ucit] [--steps FILE] [--gpus 1 2 4 8]

No run was made for it. Counted are the samples that authors print, the settings of `configs/experiments`,
and the floating point operations of a frozen decoder: 2 a weight and position forward, 2 backward to its
inputs, 6 for what trains, plus attention, CLIP's tower, and the output head at the answers' positions.
**Assumed** are the pace of a GPU (`--tflops` times `--utilization`, `--bandwidth`, `--token_seconds`,
`--link`) and lengths in tokens (`--text`, `LEARNED`), with an image in every sample; padding, loading and
writing are left out. A measured step replaces the pace:

    python benchmarks/adapter_step.py --device cuda --dtype bfloat16 --width 4096 --layers 32 --rank 128 \
        --json FILE
    python benchmarks/gpu_hours.py --steps FILE   # that pace, and the methods' own costs beside our LoRA
    python benchmarks/gpu_hours.py --step_seconds 0.4 --step_batch 4 --step_length 256      # the pace alone

On N GPUs an optimizer step of the same size is shared, then gradients of what trains (float32) go round the
ring, not overlapped with anything; whole batches of an evaluation are dealt. What a method costs beside LoRA
is by default what two CPU cores took at a width of 1024 (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rounds import options, write_json

from lit_cvit.data.benchmarks import coin, cvit, ucit
from lit_cvit.data.benchmarks.prepared import PreparedTask, printed_counts
from lit_cvit.data.tasks import AnswerFormat

EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiments"
# A step x that of our LoRA: docs/performance.md, adapter_step.py on the CPU.
FACTORS = {
    "LoRA": 1.0,
    "O-LoRA": 1.0,
    "ProgLoRA": 1.0,
    "HiDe": 1.02,
    "LCIA": 1.02,
    "MoELoRA": 1.07,
    "SMoLoRA": 1.08,
    "DoRA": 1.08,
}
# Tokens of an answer with its end, assumed; a batch is decoded until its longest.
LEARNED = {AnswerFormat.LETTER: 2, AnswerFormat.SHORT: 4, AnswerFormat.BOX: 25, AnswerFormat.CAPTION: 20}
# Weights of a 7B decoder's layers, of CLIP ViT-L/14-336 and of the two layers between them.
LAYERS, WIDTH, FFN, VOCABULARY = 32, 4096, 11008, 32000
PATCHES, TOWER, PROJECTOR = 576, 303e6, 21e6
LINEARS = {"attention": [(WIDTH, WIDTH)] * 4, "ffn": [(WIDTH, FFN)] * 3}
KEYS_AND_VALUES = 2 * 2 * LAYERS * WIDTH  # bytes of a position in 16 bits


@dataclass(frozen=True)
class Extra:
    """What a method does beside training on each sample once; by its file in `configs/methods`.

    Attributes:
        like: The variant of adapter_step.py whose step it takes.
        forward: Further forward passes of every training sample from the second stage on.
        tower: Further passes of an image tower for every sample that is learned (and `asked`: answered).
        learned_rows: Samples of a stage that pass forward and backward once more at its end.
        forward_rows: Those that pass forward.
        replayed: Rows of each earlier task that are mixed in.
        sums: Whether the blocks of earlier stages are computed with.
        joint: Whether all tasks are one stage.
    """

    like: str = "LoRA"
    forward: int = 0
    tower: int = 0
    asked: int = 0
    learned_rows: int = 0
    forward_rows: int = 0
    replayed: int = 0
    sums: bool = False
    joint: bool = False


# ProgLoRA's recall and the embeddings of tasks are left out: texts, or 1,000 images a stage, by an encoder.
EXTRAS = {
    "seq_lora": Extra(),
    "seq_lora_replay": Extra(replayed=100),
    "multitask": Extra(joint=True),
    "dir_lora": Extra(),
    "smolora": Extra("SMoLoRA"),
    "moe_lora": Extra("MoELoRA"),
    "dora": Extra("DoRA"),
    "c_lora": Extra("O-LoRA", sums=True),
    "o_lora": Extra("O-LoRA", sums=True),
    "ewc": Extra(learned_rows=128),
    "ewc_tir": Extra(learned_rows=128),
    "pgp": Extra(forward_rows=128),
    "model_tailor": Extra(forward_rows=128 * LAYERS),
    "lwf": Extra(forward=1),
    "l2p": Extra(tower=1, asked=1),
    "eproj": Extra(asked=1),
    "hide": Extra("HiDe", tower=1, asked=1),
    "lcia": Extra("LCIA"),
    "prog_lora_static": Extra("ProgLoRA", sums=True),
    "prog_lora_dynamic": Extra("ProgLoRA", sums=True),
}


@dataclass(frozen=True)
class Split:
    """A task: training and test samples, and the tokens of an answer; `learned` is 0 for held-out ones."""

    learned: int
    asked: int
    answer: int


@dataclass(frozen=True)
class Model:
    """Operations of the 7B model with adapters that train, and some that are computed with alone."""

    rank: int
    targets: Sequence[str]
    frozen_rank: float = 0.0
    layers: int = LAYERS
    width: int = WIDTH

    @property
    def weights(self) -> float:
        """Of the decoder's linear layers."""
        return self._of(sum(i * o for shapes in LINEARS.values() for i, o in shapes), 2)

    def adapters(self, rank: float) -> float:
        """Parameters of blocks of a rank."""
        return rank * self._of(sum(i + o for group in self.targets for i, o in LINEARS.get(group, ())), 1)

    def _of(self, number: float, power: int) -> float:
        return self.layers * number * (self.width / WIDTH) ** power

    def forward(self, length: float) -> float:
        """Of the decoder's layers for one sequence; attention is causal."""
        weights = self.weights + self.adapters(self.rank + self.frozen_rank)
        return 2 * weights * length + 2 * length**2 * self.width * self.layers

    def step(self, length: float, *, twice: bool = False) -> float:
        """Forward and backward; forward `twice` with activation checkpointing."""
        attention = 2 * length**2 * self.width * self.layers
        frozen = 4 * (self.weights + self.adapters(self.frozen_rank))
        once = (frozen + 6 * self.adapters(self.rank)) * length + 3 * attention
        return once + twice * self.forward(length)

    @property
    def gradient_bytes(self) -> float:
        """Of adapters and projector, in float32."""
        return 4 * (self.adapters(self.rank) + PROJECTOR)


IMAGE = 2 * TOWER * (PATCHES + 1)


def head(positions: float) -> float:
    """Operations of the output head, forward."""
    return 2 * WIDTH * VOCABULARY * positions


@dataclass(frozen=True)
class Plan:
    """An experiment in seconds of one GPU.

    Attributes:
        training: All stages.
        steps: Optimizer steps.
        batches: Batches of every pass over a test split, and the seconds of one.
        gradient_bytes: What a step sends.
    """

    training: float
    steps: int
    batches: tuple[tuple[int, float], ...]
    gradient_bytes: float

    @property
    def evaluation(self) -> float:
        """All passes on one GPU."""
        return sum(number * seconds for number, seconds in self.batches)

    def seconds(self, gpus: int, link: float) -> float:
        """Wall time on so many GPUs whose link moves so many GB/s."""
        sent = 2 * (gpus - 1) / gpus * self.gradient_bytes / (link * 1e9)
        dealt = sum(math.ceil(number / gpus) * seconds for number, seconds in self.batches)
        return self.training / gpus + self.steps * sent + dealt


def plan(settings: Any, extra: Extra, stream: Sequence[Split], held_out: Sequence[Split], args: Any) -> Plan:
    """Plan an experiment from its settings."""
    init, data = settings["model"]["init_args"], settings["data"]
    # The blocks of earlier stages are on average those of half of the stream.
    frozen = init["rank"] * (len(stream) - 1) / 2 if extra.sums else 0
    model = Model(init["rank"], init["targets"], frozen)
    factor, epochs = args.factors[extra.like], data["epochs"]
    training, stages, batches = 0.0, [], []
    for number, split in enumerate(stream):
        length = PATCHES + args.text + split.answer
        around = 2 * head(split.answer) + 6 * PROJECTOR * PATCHES
        learn = factor * model.step(length, twice=args.checkpointing) + around + IMAGE
        forward = factor * model.forward(length) + head(split.answer) + IMAGE
        each = learn + extra.tower * IMAGE + (extra.forward * forward if number else 0)
        rows = epochs * (split.learned + extra.replayed * number)
        training += rows * each + extra.learned_rows * learn + extra.forward_rows * forward
        stages.append(rows)
        passes = 1 if extra.joint else len(stream) - number
        batches += [batch_of(split, model, factor, extra, args)] * passes
    batches += [batch_of(split, model, factor, extra, args) for split in held_out]
    size = data["global_batch_size"]
    steps = sum(math.ceil(rows / size) for rows in ([sum(stages)] if extra.joint else stages))
    return Plan(training / args.pace, steps, tuple(batches), model.gradient_bytes)


def batch_of(split: Split, model: Model, factor: float, extra: Extra, args: Any) -> tuple[int, float]:
    """Batches of a pass over a test split, and the seconds of a full one: prompts, then one token a time."""
    length = PATCHES + args.text
    prompt = factor * model.forward(length) + head(1) + (1 + extra.asked) * IMAGE
    read = 2 * (model.weights + VOCABULARY * WIDTH) + args.eval_batch * length * KEYS_AND_VALUES
    token = max(read / (args.bandwidth * 1e12), args.token_seconds)
    seconds = args.eval_batch * prompt / args.pace + split.answer * token
    return math.ceil(split.asked / args.eval_batch), seconds


def splits(data: Any) -> tuple[list[Split], list[Split]]:
    """The tasks of a benchmark as published: the stream, and those tested once without being learned."""
    name = data["benchmark"]
    stream: dict[str, PreparedTask] = {"cvit": cvit.STREAM, "coin": coin.TASKS, "ucit": ucit.TASKS}[name]
    if data["settings"].get("version") == "hide":
        stream = {task: coin.as_in_hide(task, spec) for task, spec in stream.items()}
    held_out = [task for task in cvit.DOWNSTREAM if task != "Places365"] if name == "cvit" else []
    printed = printed_counts(name)

    def split(task: str, spec: PreparedTask) -> Split:
        counts = spec.published or printed[task]
        return Split(counts.train or 0, counts.test or 0, LEARNED[spec.answer_format])

    return [split(*each) for each in stream.items()], [split(t, cvit.DOWNSTREAM[t]) for t in held_out]


def pace_of(args: argparse.Namespace) -> float:
    """Operations a second: of a measured step, or as assumed; takes the methods' costs of `--steps` over."""
    seconds, shape = args.step_seconds, (args.step_batch, args.step_length)
    model = Model(128, ["ffn"])
    if args.steps is not None:
        content = json.loads(args.steps.read_text(encoding="utf-8"))
        found, own = content["found"], content["settings"]
        args.factors |= {name: row["over"]["LoRA"][1] for name, row in found.items() if name in FACTORS}
        if own["device"].startswith("cuda"):
            seconds, shape = statistics.median(found["LoRA"]["seconds"]), (own["batch"], own["length"])
            model = Model(int(own["rank"]), ["ffn"], layers=int(own["layers"]), width=int(own["width"]))
    if seconds is None:
        return float(args.tflops * args.utilization * 1e12)
    batch, length = map(int, shape)
    # That decoder has the FFN's adapters.
    return batch * model.step(length) / seconds


def main() -> None:
    """Plan and print."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", help="experiments; by default those of 7B with one instruction")
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--tflops", type=float, default=989, help="assumed: dense bfloat16 peak (H100, H200)")
    parser.add_argument("--utilization", type=float, default=0.4, help="assumed: share of it that is reached")
    parser.add_argument("--bandwidth", type=float, default=2.0, help="assumed: TB/s reached in decoding")
    parser.add_argument("--token_seconds", type=float, default=0.03, help="assumed: least time of a token")
    parser.add_argument("--link", type=float, default=50, help="assumed: GB/s between GPUs")
    parser.add_argument("--text", type=int, default=75, help="assumed: tokens of a prompt beside the image")
    parser.add_argument("--eval_batch", type=int, default=48)
    parser.add_argument("--checkpointing", action="store_true", help="activations are computed twice")
    parser.add_argument("--steps", type=Path, help="figures of adapter_step.py")
    parser.add_argument("--step_seconds", type=float, help="measured: a step of our LoRA in adapter_step.py")
    parser.add_argument("--step_batch", type=int, default=4)
    parser.add_argument("--step_length", type=int, default=256)
    args = parser.parse_args()
    args.factors = dict(FACTORS)
    args.pace = pace_of(args)
    found: dict[str, Any] = {}
    print(f"{args.pace / 1e12:.0f} TFLOP/s a GPU; GPU hours on one GPU, then wall hours (efficiency)")
    wall = "".join(f"{f'{gpus} GPUs':>14}" for gpus in args.gpus)
    print(f"{'experiment':26}{'steps':>7}{'answers':>9}{'training':>10}{'evaluation':>12}{'total':>8}{wall}")
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        method = re.search(r"--config methods/(\w+)", text)
        if path.stem not in args.only if args.only else re.search("13b|multi$|zero_shot", path.stem):
            continue
        assert method is not None
        settings = yaml.safe_load(text)
        stream, held_out = splits(settings["data"])
        made = plan(settings, EXTRAS[method[1]], stream, held_out, args)
        times = {gpus: made.seconds(gpus, args.link) for gpus in args.gpus}
        alone = made.seconds(1, args.link)
        hours = [made.training / 3600, made.evaluation / 3600, alone / 3600]
        answers = sum(number for number, _ in made.batches) * args.eval_batch
        wall = "".join(f"{t / 3600:7.1f} ({100 * alone / t / n:3.0f}%)" for n, t in times.items())
        figures = f"{made.steps:7}{answers:9}{hours[0]:10.1f}{hours[1]:12.1f}{hours[2]:8.1f}"
        print(f"{path.stem:26}{figures} {wall}")
        found[path.stem] = {"steps": made.steps, "hours": hours, "wall": times}
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
