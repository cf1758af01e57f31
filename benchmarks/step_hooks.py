"""What methods and callbacks add to a training step beside the model's passes, and to a stage at its ends.

    python benchmarks/step_hooks.py [--steps 8] [--json FILE]
    python benchmarks/step_hooks.py --device cuda --dtype bfloat16 --width 4096 --layers 32 --rank 128

A real `fit` of two stages, on a LLaVA of random weights with a 7B model's proportions: rank / width is 1/32
(128 / 4096), so what trains is the same share of what runs, 600 positions a sample, and 4 samples a step. A
7B run has 16 or more, so the shares below are upper bounds. A step is Lightning's, from fetching the batch
to the end of its hooks; a part is what the clock says of its function within the same step. Quartiles are
over the steps of the second stage, where there is an earlier one to hold to.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clock import Clock, Functions
from lightning.pytorch.callbacks import Callback
from rounds import Quartiles, machine, on_device, options, shown, write_json
from wide import wide_llava

from callbacks import DynamicEMA, Replay, TaskRecall
from lit_cvit.backbones import Llava
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import EWC, L2, PGP, ContinualMethod, ProgLoRADynamic, SeqLoRA, SMoLoRA
from lit_cvit.methods.adapter_set import AdapterSet
from lit_cvit.methods.ewc.anchored import AnchoredMethod
from lit_cvit.methods.pgp.projected import ProjectedMethod
from lit_cvit.stream.finite import FiniteCheck
from lit_cvit.stream.step_log import StepLog
from lit_cvit.stream.trainer import ContinualTrainer

EVERY_STEP: Functions = {
    # With the read of what had no gradient, which `hold_unrouted` then drops.
    "finite check": [(FiniteCheck, "read")],
    "log": [(StepLog, "on_step_end")],
    "hold_unrouted": [(AdapterSet, "hold_unrouted")],
    "routing context": [(ContinualMethod, "context")],
}


@dataclass
class Case:
    """A fit, and whose time is taken: in every step, and once in a stage."""

    method: type[ContinualMethod]
    callbacks: Callable[[], list[Callback]] = list
    settings: dict[str, Any] = field(default_factory=dict)
    in_steps: Functions = field(default_factory=dict)
    in_stages: Functions = field(default_factory=dict)


EMA = {"DynamicEMA": [(DynamicEMA, "on_before_optimizer_step"), (DynamicEMA, "on_step_end")]}
CASES = {
    "SeqLoRA, DynamicEMA": Case(SeqLoRA, lambda: [DynamicEMA(ema_when="always")], in_steps=EMA),
    "SeqLoRA, DynamicEMA (paper)": Case(
        SeqLoRA, lambda: [DynamicEMA(beta="paper", ema_when="always")], in_steps=EMA
    ),
    "SeqLoRA, Replay": Case(
        SeqLoRA,
        lambda: [Replay()],
        in_stages={"choosing rows": [(Replay, "on_stage_start"), (Replay, "on_stage_end")]},
    ),
    "SMoLoRA": Case(SMoLoRA),
    "ProgLoRA, TaskRecall": Case(
        ProgLoRADynamic,
        lambda: [TaskRecall()],
        in_steps={"recall": [(TaskRecall, "_term")]},
        in_stages={"targets of recall": [(TaskRecall, "on_stage_start"), (TaskRecall, "on_stage_end")]},
    ),
    "L2": Case(L2, settings={"strength": 0.1}, in_steps={"anchors": [(AnchoredMethod, "on_gradients")]}),
    "EWC": Case(
        EWC,
        in_steps={"anchors": [(AnchoredMethod, "on_gradients")]},
        in_stages={"Fisher": [(EWC, "end_stage")]},
    ),
    "PGP": Case(
        PGP,
        in_steps={"projection": [(ProjectedMethod, "on_gradients"), (ProjectedMethod, "on_update")]},
        in_stages={"bases": [(ProjectedMethod, "end_stage")]},
    ),
}


def quartiles(parts: list[float], steps: list[float]) -> Quartiles:
    """Of the parts' shares in their steps, in percent."""
    low, middle, high = statistics.quantiles(
        [100 * part / whole for part, whole in zip(parts, steps, strict=True)], n=4
    )
    return low, middle, high


def run_case(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Fit, and say which shares its parts have."""
    backbone = Llava(str(folder / "model"), dtype=args.dtype, max_length=1024)
    method = case.method(backbone, rank=args.rank, alpha=2 * args.rank, **case.settings)
    samples = args.steps * args.batch
    data = ContinualDataModule(
        tasks=["TextVQA", "GQA"], settings={"num_train": samples, "num_test": 2}, batch_size=args.batch
    )
    trainer = ContinualTrainer(
        run_root=str(folder / "runs"),
        accelerator="gpu" if args.device == "cuda" else args.device,
        precision="bf16-mixed" if args.dtype == "bfloat16" else "32-true",
        callbacks=case.callbacks(),
        checkpoint_every_n_steps=0,
    )
    clock = Clock(args.device)
    in_steps = {**EVERY_STEP, **case.in_steps}
    with clock.watching({**in_steps, **case.in_stages}):
        trainer.fit(method, datamodule=data)
    # Neither the first stage nor a first step, which allocates.
    later = slice(args.steps + 1, None)
    steps = clock.steps[later]
    return {
        "step": statistics.median(steps),
        "steps": len(steps),
        "share": {name: quartiles(clock.in_steps[name][later], steps) for name in in_steps},
        "once": {name: clock.totals[name] / 2 for name in case.in_stages},
    }


def main() -> None:
    """Run the cases and print."""
    parser = on_device(options(__doc__))
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="*", help="cases")
    args = parser.parse_args()
    print(machine())
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide_llava(folder / "model", args.width, args.layers)
        for case in args.only or CASES:
            figures = found[case] = run_case(CASES[case], folder, args)
            print(f"{case}: a step takes {figures['step']:.2f} s (median of {figures['steps']})")
            for part, share in figures["share"].items():
                print(f"  {part:16} {shown(share)} % of a step")
            for part, seconds in figures["once"].items():
                print(f"  {part:16} {seconds:.2f} s a stage, {seconds / figures['step']:.1f} steps' time")
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
