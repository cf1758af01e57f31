"""The diagonal of the empirical Fisher information of what trains (EWC: arXiv 1612.00796).

F_i = mean over groups g of (d L_g / d theta_i)^2, where L_g is the mean cross entropy of the true answers'
tokens of a group of training samples. Groups of one sample give the mean squared gradient of samples, which
is what the formula says; published code squares the gradient of a whole batch, whose size then decides the
scale: opposed gradients of its samples cancel before they are squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.tasks import Batch, SampleSource
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.methods.calibration import dealt_batches
from lit_cvit.utils.distributed import summed


def diagonal_fisher(
    method: ContinualMethod, source: SampleSource, *, num_samples: int, group: int = 1
) -> dict[str, Tensor]:
    """Squared gradients of a task's loss, after its training and without dropout.

    Nothing is drawn, and neither parameters nor their gradients change. The groups are dealt to the ranks,
    all of which must call it; every rank gets the same numbers.

    Args:
        method: The method, whose trainer is still there.
        source: Training samples; evenly spaced ones are taken, in their first wording.
        num_samples: Samples, or all there are.
        group: Samples whose mean loss is one gradient; the last group may be smaller, and counts as much.

    Returns:
        By canonical name of what trains, in float32 on the method's device.
    """
    rows = evenly_spaced(len(source), num_samples)
    with method.between_stages():
        trained = method.adapters.trained()
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
        for _, batch in dealt_batches(method, source, rows, group=group):
            _add_squares(method, batch, list(sums.values()))
        return {name: summed(value).div_(-(-len(rows) // group)) for name, value in sums.items()}


def _add_squares(method: ContinualMethod, batch: Batch, sums: list[Tensor]) -> None:
    with torch.enable_grad():
        with method.trainer.precision_plugin.forward_context(), routing(method.context(batch)):
            output = method.backbone.loss(batch)
        loss = output.loss_sum / max(1, output.num_tokens)
        # Not backward(): what DDP has hooked to the gradients must not run.
        grads = torch.autograd.grad(loss, list(method.adapters.trained().values()), allow_unused=True)
    # A projector has no gradient from a sample without an image.
    pairs = [(total, grad) for total, grad in zip(sums, grads, strict=True) if grad is not None]
    totals, found = [total for total, _ in pairs], [grad.float() for _, grad in pairs]
    torch._foreach_addcmul_(totals, found, found)
