"""What test samples look like inside the decoder: one pooled vector for each sample and layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_cvit.adapters import RoutingContext
from lit_cvit.adapters.kernels import sample_means
from lit_cvit.analysis.cka import MIN_ROWS, At
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.tasks import Batch, Task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.probing.passes import Precision, run_over

_DOWN = "mlp.down_proj"


def rows_of(tasks: Sequence[Task], num_samples: int) -> dict[str, list[int]]:
    """The test samples that stand for each task: as many of each, evenly spaced over its split.

    Args:
        tasks: The tasks.
        num_samples: How many of each; fewer if a split has fewer.

    Raises:
        ValueError: that leaves too few of a task.
    """
    shortest = min(tasks, key=lambda task: len(task.test))
    amount = min(num_samples, len(shortest.test))
    if amount < MIN_ROWS:
        raise ValueError(
            f"CKA needs at least {MIN_ROWS} samples of every task, got {amount} "
            f"({shortest.name} has {len(shortest.test)} test samples, {num_samples} were asked for)"
        )
    return {task.name: evenly_spaced(len(task.test), amount) for task in tasks}


def pooled_outputs(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    rows: Sequence[int],
    *,
    at: At = "layer",
    device: torch.device,
    precision: Precision = contextlib.nullcontext,
) -> Tensor:
    """Run test samples of a task and average each decoder layer's output over the prompt, the image included.

    Every rank must call this, and gets the same bits, on any number of ranks.

    Args:
        method: As in `run_over`.
        data: As in `run_over`.
        task: The task.
        rows: Positions in its test split.
        at: `layer` for the outputs of the decoder's layers, `down_proj` for those of their `mlp.down_proj`,
            its adapter included, before they are added to the residual stream.
        device: As in `run_over`.
        precision: As in `run_over`.

    Returns:
        (L, n, d) float32 on the CPU; layers from input to output, samples in the order of `rows`.

    Raises:
        ValueError: the decoder has no such module.
    """

    def look(batch: Batch, context: RoutingContext) -> tuple[Sequence[int], Tensor]:
        with _pooling(method.backbone, at, batch.prompt_mask) as pooled:
            method.backbone.forward_hidden(batch)
        return batch.indices, torch.stack(pooled).cpu()

    seen = run_over(method, data, task, rows, look, device=device, precision=precision)
    order = torch.tensor([index for indices, _ in seen for index in indices]).argsort()
    return torch.cat([layers for _, layers in seen], dim=1)[:, order]


def observed_modules(backbone: Backbone, at: At) -> list[nn.Module]:
    """The modules of the decoder whose outputs are compared, one per layer.

    Raises:
        ValueError: the decoder has no such module.
    """
    if at == "layer":
        return list(backbone.decoder_layers)
    try:
        return [layer.get_submodule(_DOWN) for layer in backbone.decoder_layers]
    except AttributeError as error:
        kind = type(backbone).__name__
        raise ValueError(f"at 'down_proj': a decoder layer of {kind} has no {_DOWN}; use 'layer'") from error


@contextlib.contextmanager
def _pooling(backbone: Backbone, at: At, mask: Tensor) -> Iterator[list[Tensor]]:
    """Average the modules' outputs over the prompt while the block runs: (S, d) for each layer."""
    pooled: list[Tensor] = []

    def pool(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        pooled.append(sample_means(hidden, mask, row_to_sample=None, num_samples=len(mask)))

    handles = [module.register_forward_hook(pool) for module in observed_modules(backbone, at)]
    try:
        yield pooled
    finally:
        for handle in handles:
            handle.remove()
