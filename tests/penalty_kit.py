"""What the tests of penalties share: the gradients of every optimizer step, as callbacks find them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stream_kit import fit, quick_data, small_data, small_method, snapshot

from lit_cvit.methods import ContinualMethod
from lit_cvit.stream.stage_callback import StageCallback

Gradients = dict[str, torch.Tensor]
# Ten rows of a task in steps of 4, so that the last step of an epoch has 2; in micro-batches of 4, 2 and 1.
ROWS, STEP, MICRO = 10, 4, (4, 2, 1)


class StepGradients(StageCallback):
    """Keeps the gradients of every step of the second stage: accumulated, not yet clipped or applied.

    Args:
        prepare: Changes the method when that stage begins.
    """

    def __init__(self, prepare: Callable[[ContinualMethod], None] | None = None) -> None:
        super().__init__()
        self.prepare = prepare
        self.steps: list[Gradients] = []

    def on_stage_start(self, trainer: Any, method: ContinualMethod, stage: Any) -> None:
        self.steps = []
        if self.prepare is not None and stage.number == 2:
            self.prepare(method)

    def on_before_optimizer_step(self, trainer: Any, pl_module: ContinualMethod, optimizer: Any) -> None:
        blocks = [(bank.name, bank.lora_blocks()) for bank in pl_module.banks.values()]
        self.steps.append(
            {
                f"{bank}.blocks.{number}.{part}": parameter.grad.clone()
                for bank, own in blocks
                for number, block in enumerate(own)
                for part, parameter in block.named_parameters()
                if parameter.grad is not None
            }
        )


def step_gradients(
    folder: Path,
    root: Path,
    family: type[ContinualMethod],
    micro: int,
    prepare: Callable[[ContinualMethod], None] | None = None,
    **settings: Any,
) -> tuple[ContinualMethod, list[Gradients]]:
    """A fit of two stages at rate 0, in which every step finds the same parameters, and its gradients."""
    method = small_method(folder, family, rate=0.0, **settings)
    data = small_data(settings={"num_train": ROWS}, batch_size=micro, global_batch_size=STEP)
    seen = StepGradients(prepare)
    fit(root, method, data, callbacks=[seen])
    assert len(seen.steps) == 3
    return method, seen.steps


def stages_of(
    folder: Path, root: Path, family: type[ContinualMethod]
) -> tuple[ContinualMethod, list[dict[str, torch.Tensor]]]:
    """A fit of two stages with weight decay, and a copy of all tensors after each."""
    after: list[dict[str, torch.Tensor]] = []

    class Recording(StageCallback):
        def on_stage_end(self, trainer: Any, method: ContinualMethod, stage: Any) -> None:
            after.append(snapshot(method))

    method = small_method(folder, family, decay=0.5)
    fit(root, method, quick_data(), callbacks=[Recording()])
    return method, after


def require_old_blocks(method: ContinualMethod, after: list[dict[str, torch.Tensor]]) -> None:
    """Each stage has left a block of full rank, and the first is bit for bit what its stage left."""
    assert [bank.ranks for bank in method.banks.values()] == [(32, 32)] * len(method.banks)
    assert after[0]
    assert all(torch.equal(after[1][name], tensor) for name, tensor in after[0].items())
