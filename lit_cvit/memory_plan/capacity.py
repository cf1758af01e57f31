"""Whether a planned run fits where it is to run, and what would make it fit."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.memory_plan.plan import MemoryPlan, readable
from lit_cvit.methods.base import ContinualMethod

log = logging.getLogger("lit_cvit")

# Above this share of the free memory, what an allocator cannot use may be what is missing.
_TIGHT = 0.95


def require_memory(plan: MemoryPlan, device: torch.device, advice: Sequence[str]) -> str:
    """Compare a plan with the memory there is; returns that memory in words.

    A GPU must hold all that is counted, not only estimated. Elsewhere only weights larger than the
    whole memory are refused: how much of it is free changes from moment to moment.

    Raises:
        ValueError: the run cannot fit; says what would make it smaller.
    """
    if device.type == "cuda":
        available, needed = torch.cuda.mem_get_info(device)[0], plan.peak_bytes(estimated=False)
        where, what = f"free on {device}", "the run"
    else:
        available, needed = system_memory(), plan.weight_bytes
        where, what = "memory of this machine", "the frozen model alone"
    if needed > available:
        first = f"{what} needs {readable(needed)}, more than the {readable(available)} {where}"
        raise ValueError("\n".join([first, *plan.lines(), "what would make it smaller:", *advice]))
    if device.type == "cuda" and plan.peak_bytes() > _TIGHT * available:
        log.warning("the memory plan fills over %d %% of the %s %s", 100 * _TIGHT, readable(available), where)
    return f"{readable(available)} {where}"


def advice(method: ContinualMethod, data: ContinualDataModule) -> list[str]:
    """The settings that would take less memory, each as it would have to be set."""
    backbone, found = method.backbone, []
    full = method.trains and method.train_mode == "full"
    if full:
        found.append("model.train: adapters")
    elif backbone.quantization == "none":
        found.append("model.backbone.quantization: nf4")
    if backbone.dtype == "float32" and not full:
        found.append("model.backbone.dtype: bfloat16, with trainer.precision: bf16-mixed")
    if method.trains and not backbone.activation_checkpointing:
        found.append("model.backbone.activation_checkpointing: true")
    if method.trains and data.batch_size > 1:
        # A divisor, so that micro-batches still make up the step.
        smaller = next(
            data.batch_size // n for n in range(2, data.batch_size + 1) if data.batch_size % n == 0
        )
        found.append(
            f"data.batch_size: {smaller}, with data.global_batch_size: {data.step_size}, which keeps the "
            "optimizer step as it is"
        )
    if data.eval_batch_size > 1:
        found.append(f"data.eval_batch_size: {data.eval_batch_size // 2}")
    return [*found, "a smaller backbone" if full else "a lower model.rank, or a smaller backbone"]


def system_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
