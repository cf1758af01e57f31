"""Running test samples through a method to look inside it: batches as in an evaluation, over all ranks.

The samples take the method's own way at test: without answers, under the method's context, read once up to
where the first answer token would come. The method comes out as it went in: nothing is drawn at random, no
gradient is kept, and every module has its mode again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from lit_cvit.adapters import RoutingContext, routing
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.sampling import EvalBatchSampler
from lit_cvit.data.tasks import Batch, Task
from lit_cvit.evaluation import evaluating
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.utils.distributed import gathered, num_ranks, rank

Precision = Callable[[], AbstractContextManager[Any]]
Found = TypeVar("Found")


def run_over(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    rows: Sequence[int],
    look: Callable[[Batch, RoutingContext], Found],
    *,
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
) -> list[Found]:
    """Look at batches of test samples; every rank must call it, and gets the whole result.

    Args:
        method: The method, as it is; it is put into evaluation mode and on `device` meanwhile.
        data: Makes the batches; what the method does not declare to know stays hidden from it.
        task: The task.
        rows: Positions in its test split.
        look: Given a batch on `device` and its routing context, which is in force, it runs the backbone and
            returns what it has seen; that must pickle.
        device: Where to run.
        precision: Makes the context to run in, for example a precision plugin's `forward_context`.

    Returns:
        What was seen, in the order of the batches, so that the number of ranks changes no bit.
    """
    chosen = dataclasses.replace(task, test=SubsetSource(task.test, tuple(rows)))
    sampler = EvalBatchSampler(data.eval_plan(chosen), rank=rank(), world_size=num_ranks())
    own: dict[int, Found] = {}
    with evaluating(method, device), precision(), torch.no_grad(), method.backbone.in_lockstep():
        for number, batch in enumerate(data.eval_loader(chosen, sampler)):
            moved = batch.to(device)
            context = method.context(moved)
            with routing(context):
                own[rank() + number * num_ranks()] = look(moved, context)
    batches = {number: found for part in gathered(own) for number, found in part.items()}
    return [batches[number] for number in sorted(batches)]
