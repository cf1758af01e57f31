"""What a longer stream costs: time and memory of a step and of an answer against the number of stages.

    python benchmarks/stream_length.py [--stages 32] [--only HiDe LCIA] [--operations] [--json FILE]

A real run of tasks with instructions of their own, one optimizer step a stage, on a LLaVA of random weights.
After 1, 2, 4, ... stages a training batch (forward and backward) and an answer take turns with the same pass
without any adapters. `slope` is the least-squares line through the medians: what a further stage adds, in
percent of the pass without adapters. `kept` is what autograd keeps for the backward pass, `stored` the
tensors of the method. Blocks of rank 8 at a width of 512: with 32 stages as many ranks as half of the width.
`--operations` counts floating point operations in place of time: what a method needs, on any machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rounds import machine, options, ratio, saved_bytes, shown, take_turns, write_json
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from callbacks import DynamicEMA, TaskRecall
from lit_cvit.adapters import RoutingContext, routing
from lit_cvit.backbones import Llava
from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.sampling import Place
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Benchmark, Task
from lit_cvit.methods import (
    LCIA,
    CLoRA,
    ContinualMethod,
    DirLoRA,
    HiDe,
    OLoRA,
    ProgLoRADynamic,
    ProgLoRAStatic,
    SeqLoRA,
    SMoLoRA,
)
from lit_cvit.miniature.drawn import MiniSource
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.stream.trainer import ContinualTrainer

METHODS: dict[str, type[ContinualMethod]] = {
    each.__name__: each
    for each in (
        SeqLoRA,
        SMoLoRA,
        DirLoRA,
        HiDe,
        LCIA,
        OLoRA,
        CLoRA,
        ProgLoRAStatic,
        ProgLoRADynamic,
    )
}
# Callbacks that a method needs. Replay is left out: it adds rows to a stage, and nothing to a step.
BESIDE: dict[type[ContinualMethod], tuple[type[StageCallback], ...]] = {
    LCIA: (DynamicEMA,),
    ProgLoRADynamic: (TaskRecall,),
}
SETTINGS: dict[type[ContinualMethod], dict[str, str]] = {ProgLoRAStatic: {"recall": "none"}}
RANK, WIDTH, SAMPLES = 8, 512, 4


Ways = Mapping[str, Callable[[], None]]


def operations(ways: Ways) -> dict[str, list[float]]:
    """Floating point operations of each way, once for each of the quartiles."""
    found: dict[str, list[float]] = {}
    for name, run in ways.items():
        with FlopCounterMode(display=False) as counter:
            run()
        found[name] = [float(counter.get_total_flops())] * 3
    return found


class Probe(StageCallback):
    """Measures after stages 1, 2, 4, 8 and so on."""

    def __init__(self, taken: Callable[[Ways], dict[str, list[float]]]) -> None:
        super().__init__()
        self.taken = taken
        self.found: dict[int, dict[str, Any]] = {}

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        if stage.number & (stage.number - 1):
            return
        train, test = stage.task.train, stage.task.test
        assert train is not None
        learned = method.backbone.encode([train.sample(row) for row in range(SAMPLES)], with_answers=True)
        assert learned.answer_mask is not None
        tokens = int(learned.answer_mask.sum())
        learned = replace(learned, step_tokens=tokens, step_samples=SAMPLES, place=Place(0, 0, 1))
        asked = method.backbone.encode([test.sample(row) for row in range(SAMPLES)], with_answers=False)
        without = RoutingContext(SAMPLES, bypass=True, row_to_sample=method.backbone.row_maps(learned))

        def forward() -> Tensor:
            return torch.stack([value.reshape(()) for value in method.terms(learned).values()]).sum()

        def step() -> None:
            method.train()
            forward().backward()
            for parameter in method.parameters():
                parameter.grad = None

        def bare_step() -> None:
            inputs = method.backbone.language_model.get_input_embeddings()
            assert isinstance(inputs, torch.nn.Module)
            # Something below the decoder has to train, as the projector does, or nothing goes back.
            handle = inputs.register_forward_hook(lambda _, __, out: out.requires_grad_())
            with routing(without):
                method.backbone.loss(learned).loss_sum.backward()
            handle.remove()

        def answer() -> None:
            method.eval()
            method.generate(asked, max_new_tokens=4)

        def bare_answer() -> None:
            method.eval()
            with routing(without):
                method.backbone.generate(asked, max_new_tokens=4)

        ways = {"step": step, "bare step": bare_step, "answer": answer, "bare answer": bare_answer}
        times = self.taken(ways)
        self.found[stage.number] = {
            "step": ratio(times, "step", "bare step"),
            "answer": ratio(times, "answer", "bare answer"),
            "kept": saved_bytes(forward, method),
            "stored": sum(tensor.nbytes for tensor in method.tensors().values()),
        }


def stream(number: int) -> Benchmark:
    """So many tasks, each with a name and an instruction of its own."""
    task = ContinualDataModule(settings={"num_train": SAMPLES, "num_test": SAMPLES}).benchmark.task("TextVQA")
    return Benchmark("long", tuple(renamed(task, place) for place in range(1, number + 1)))


def renamed(task: Task, number: int) -> Task:
    assert isinstance(task.train, MiniSource)
    assert isinstance(task.test, MiniSource)
    name, instructions = f"Task{number}", (f"word{number} thing{number} of kind{number}.",)
    train, test = (replace(part, task=name, instructions=instructions) for part in (task.train, task.test))
    return replace(task, name=name, train=train, test=test, instructions=instructions)


def measure(family: type[ContinualMethod], folder: Path, args: argparse.Namespace) -> dict[int, Any]:
    """Fit and measure."""
    own = {} if family in (SMoLoRA, SeqLoRA) else {"rank": RANK, "alpha": 2 * RANK}
    method = family(
        Llava(str(folder / "model")), **{"rank": 64, "alpha": 128, **own, **SETTINGS.get(family, {})}
    )
    probe = Probe(operations if args.operations else partial(take_turns, rounds=args.rounds))
    data = ContinualDataModule(batch_size=SAMPLES)
    vars(data)["benchmark"] = stream(args.stages)
    trainer = ContinualTrainer(
        run_root=str(folder / "runs"),
        accelerator="cpu",
        callbacks=[*(make() for make in BESIDE.get(family, ())), probe],
        checkpoint_every_n_steps=0,
    )
    trainer.fit(method, datamodule=data)
    return probe.found


def main() -> None:
    """Measure every method and print."""
    parser = options(__doc__)
    parser.add_argument("--stages", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="methods")
    parser.add_argument("--operations", action="store_true", help="counted in place of time")
    args = parser.parse_args()
    print(machine())
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_llava_folder(
            folder / "model", hidden_size=WIDTH, num_layers=3, image_size=112, patch_size=8, max_length=512
        )
        for family in args.only or METHODS:
            figures = found[family] = measure(METHODS[family], folder, args)
            print(f"{family + ', stages':22}  {'step x bare':22}  {'answer x bare':22}  kept, stored (MiB)")
            for number, row in figures.items():
                sizes = f"{row['kept'] / 2**20:9.1f}  {row['stored'] / 2**20:12.2f}"
                print(f"{number:22}  {shown(row['step']):22}  {shown(row['answer']):22}  {sizes}")
            for way in ("step", "answer"):
                line = statistics.linear_regression(
                    list(figures), [100 * row[way][1] for row in figures.values()]
                )
                print(f"  slope of a {way}: {line.slope:+.2f} % a stage")
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
