"""A frozen decoder in shards (FSDP2) under adapters that stay whole: does it train what one process trains?

    python benchmarks/sharded_backbone.py [--method SMoLoRA] [--steps 5]

Two gloo ranks on `tiny`. `Backbone.shard`, which `trainer.strategy: ddp_sharded_backbone` uses, leaves half
of every decoder layer's frozen weights on a rank and has them gathered for the layer's passes; the banks keep
plain tensors. What trains is compared with that of one process, after some steps of AdamW on the same
samples, and the time of a step with that of two ranks without shards.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.spawn import spawn

from lit_cvit import methods
from lit_cvit.adapters import routing
from lit_cvit.backbones import Tiny
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod

SAMPLES = 8


def make(name: str) -> tuple[ContinualMethod, list[Batch]]:
    """A method at the start of its first stage, and batches of a step: both halves."""
    torch.manual_seed(0)
    method: ContinualMethod = getattr(methods, name)(Tiny(), rank=16, alpha=32)
    data = ContinualDataModule(settings={"num_train": 2 * SAMPLES})
    data.attach(method.backbone.encoder)
    method.prepare()
    stage = data.stages(seed=0)[0]
    method.begin_stage(stage)
    generator = torch.Generator().manual_seed(1)
    for bank in method.banks.values():
        for block in bank.lora_blocks():
            nn.init.normal_(block.B, std=0.02, generator=generator)
    assert stage.task.train is not None
    samples = [stage.task.train.sample(row) for row in range(SAMPLES)]
    halves = (samples[: SAMPLES // 2], samples[SAMPLES // 2 :])
    batches = [method.backbone.encode(half, with_answers=True) for half in halves]
    tokens = sum(int(batch.answer_mask.sum()) for batch in batches if batch.answer_mask is not None)
    return method, [replace(batch, step_tokens=tokens, step_samples=SAMPLES) for batch in batches]


def train(method: ContinualMethod, batches: list[Batch], steps: int) -> dict[str, Tensor]:
    """Steps on the sum of the losses of all ranks' batches over the answer tokens of the step."""
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for _ in range(steps):
        for batch in batches:
            with routing(method.context(batch)):
                (method.backbone.loss(batch).loss_sum / batch.step_tokens).backward()
        if distributed.is_initialized():
            for parameter in trained.values():
                distributed.all_reduce(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach().clone() for name, parameter in trained.items()}


def seconds(method: ContinualMethod, batch: Batch, steps: int) -> float:
    """Seconds of a step, after one that does not count."""
    train(method, [batch], 1)
    distributed.barrier()
    start = time.perf_counter()
    train(method, [batch], steps)
    return (time.perf_counter() - start) / steps


def work(rank: int, args: argparse.Namespace, out: Path) -> None:
    """One of two ranks."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=args.port)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    method, batches = make(args.method)
    whole = sum(p.numel() for p in method.backbone.decoder_layers.parameters() if not p.requires_grad)
    plain = seconds(make(args.method)[0], batches[rank], args.steps)
    method.backbone.shard(init_device_mesh("cpu", (2,)))
    frozen: list[Any] = [p for p in method.backbone.decoder_layers.parameters() if not p.requires_grad]
    held = sum(p.to_local().numel() for p in frozen)
    found = train(method, [batches[rank]], args.steps)
    shards = seconds(method, batches[rank], args.steps)
    if rank == 0:
        torch.save({"found": found, "whole": whole, "held": held, "plain": plain, "shards": shards}, out)
    distributed.destroy_process_group()


def main() -> None:
    """Train both ways and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="SMoLoRA")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--port", default="29612")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.pt"
        spawn(work, args=(args, out), nprocs=2)
        two = torch.load(out, weights_only=True)
    start = {
        name: p.detach().clone() for name, p in make(args.method)[0].named_parameters() if p.requires_grad
    }
    one = train(*make(args.method), args.steps)
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two["found"][name]).abs().max()) for name in one)
    print(f"a rank holds {two['held']} of {two['whole']} frozen numbers of the decoder's layers")
    print(f"a step takes {1e3 * two['plain']:.0f} ms on two ranks, {1e3 * two['shards']:.0f} ms with shards")
    print(f"weights moved by up to {moved:.1e}; two ranks and one process are at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
