"""Running test samples through a method to see how it routes them; what is counted is in `routing`.

The samples take the method's own way at test: batches as in an evaluation, without answers and with the
method's test-time context, read once up to where the first answer token would come. What is decided there is
kept while decoding by every method but SMoLoRA's `preset: official`, which chooses anew at every token.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lit_cvit.adapters import DECODER, LoRABank, RoutingContext, routing
from lit_cvit.adapters.kernels import sample_means
from lit_cvit.analysis.routing import BankRouting, GateSums, TaskRouting, added, bank_routing, gate_sums
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.stream import Stage
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluating
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.ranks import gathered, num_ranks, rank

Precision = Callable[[], AbstractContextManager[Any]]


class Recorder(dict[str, Tensor]):
    """A trace for a routing context that keeps sums over samples instead of every gate of every position.

    Attributes:
        sums: By bank, what the samples of this context have done.
    """

    def __init__(self, banks: Mapping[str, LoRABank], context: RoutingContext) -> None:
        super().__init__()
        self.banks, self.context = banks, context
        self.sums: dict[str, GateSums] = {}

    def __setitem__(self, bank: str, gate: Tensor) -> None:
        kind, context = self.banks[bank].kind, self.context
        rows = context.row_to_sample.get(kind)
        num_rows = context.num_samples if rows is None else rows.shape[0]
        mask = context.decoder_prompt_mask() if kind == DECODER else None
        if gate.dim() == 1:
            gate = gate.expand(num_rows, 1, -1)
        if mask is not None and gate.shape[1] == 1:
            # One gate for all positions of a row.
            mask = mask.any(1, keepdim=True)

        def means(values: Tensor) -> Tensor:
            return sample_means(values, mask, row_to_sample=rows, num_samples=context.num_samples)

        present = means(torch.ones_like(gate[..., :1])).squeeze(1) > 0
        self.sums[bank] = gate_sums(means(gate.double()), means((gate != 0).double()), present)


def trace_routing(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    *,
    num_samples: int,
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
) -> dict[str, BankRouting]:
    """How test samples of a task are routed, by bank; every rank must call it, and gets the whole result.

    Args:
        method: The method, as it is; it is put into evaluation mode and on `device` meanwhile.
        data: Makes the batches.
        task: Whose test samples, evenly spaced over the split.
        num_samples: How many, or all there are.
        device: Where to run.
        precision: Makes the context to run in, for example a precision plugin's `forward_context`.

    Returns:
        Banks in model order; those without a gate, and those that no sample went through, are left out.
    """
    rows = evenly_spaced(len(task.test), num_samples)
    chosen = dataclasses.replace(task, test=SubsetSource(task.test, tuple(rows)))
    sampler = data.eval_sampler(chosen, rank=rank(), world_size=num_ranks())
    own: dict[int, dict[str, GateSums]] = {}
    with evaluating(method, device), precision(), torch.no_grad():
        for number, batch in enumerate(data.eval_loader(chosen, sampler)):
            moved = batch.to(device)
            context = method.context(moved)
            recorder = context.trace = Recorder(method.banks, context)
            with routing(context):
                method.backbone.forward_hidden(moved)
            own[rank() + number * num_ranks()] = recorder.sums
    # In the order of the batches, so that the number of ranks changes no bit.
    batches = {number: sums for part in gathered(own) for number, sums in part.items()}
    total = added(batches[number] for number in sorted(batches))
    found = {}
    for name, bank in method.banks.items():
        if name in total and total[name].samples:
            branches = bank.router.branches if bank.router is not None else None
            found[name] = bank_routing(total[name], branches)
    return found


def trace_tasks(
    method: ContinualMethod,
    data: ContinualDataModule,
    stage: Stage,
    *,
    unseen: bool,
    num_samples: int,
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
    before_task: Callable[[], None] = lambda: None,
) -> tuple[TaskRouting, ...]:
    """How the method routes the tasks of a stream after a stage; every rank must call it.

    Args:
        method: The method, as it was after `stage`.
        data: The stream.
        stage: The stage.
        unseen: Whether later tasks of the stream and downstream tasks are run too.
        num_samples: Test samples of each task.
        device: As in `trace_routing`.
        precision: As in `trace_routing`.
        before_task: Called before each task.

    Returns:
        Seen tasks, then later ones, then downstream ones; no task at all if nothing is routed.
    """
    seen = {task.name for task in stage.seen}
    tasks = list(stage.seen)
    if unseen:
        tasks += [task for task in (*data.stream, *data.downstream) if task.name not in seen]
    held_out = {task.name for task in data.downstream}
    found = []
    for task in tasks:
        before_task()
        banks = trace_routing(method, data, task, num_samples=num_samples, device=device, precision=precision)
        amount = min(num_samples, len(task.test))
        found.append(TaskRouting(task.name, task.name in seen, task.name in held_out, amount, banks))
    return tuple(found) if any(task.banks for task in found) else ()
