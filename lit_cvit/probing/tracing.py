"""Running test samples through a method to see how it routes them; what is counted is in `routing`.

The samples are read once up to where the first answer token would come. What is decided there is kept while
decoding by every method but SMoLoRA's `preset: official`, which chooses anew at every token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lit_cvit.adapters import DECODER, LoRABank, RoutingContext
from lit_cvit.adapters.kernels import sample_means
from lit_cvit.analysis.routing import BankRouting, GateSums, TaskRouting, added, bank_routing, gate_sums
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.probing.passes import Precision, run_over


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
        method: As in `run_over`.
        data: As in `run_over`.
        task: Whose test samples, evenly spaced over the split.
        num_samples: How many, or all there are.
        device: As in `run_over`.
        precision: As in `run_over`.

    Returns:
        Banks in model order; those without a gate, and those that no sample went through, are left out.
    """

    def look(batch: Batch, context: RoutingContext) -> dict[str, GateSums]:
        recorder = context.trace = Recorder(method.banks, context)
        method.backbone.forward_hidden(batch)
        return recorder.sums

    rows = evenly_spaced(len(task.test), num_samples)
    total = added(run_over(method, data, task, rows, look, device=device, precision=precision))
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
