"""The memory plan of a run: what one of its devices will hold, computed before weights are loaded.

It comes from the configs of model and method and from a look at some samples; docs/memory.md says how every
line is computed, and what is in none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.memory_plan.adapters import Unplannable
from lit_cvit.memory_plan.capacity import advice, require_memory
from lit_cvit.memory_plan.plan import MemoryPlan, Row
from lit_cvit.memory_plan.sizes import plan_memory
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.run import RunRecord

__all__ = ["MemoryPlan", "Row", "Unplannable", "advice", "checked_plan", "plan_memory", "require_memory"]

log = logging.getLogger("lit_cvit")


def checked_plan(
    method: ContinualMethod,
    data: ContinualDataModule,
    stages: Sequence[Stage],
    record: RunRecord,
    device: torch.device,
    precision: str,
    shards: int = 1,
) -> list[str]:
    """Plan a run's memory and hold it against what the device has.

    Args:
        method: The method as configured; its backbone need not be loaded.
        data: Its data, with the backbone's encoder attached.
        stages: The stages to come.
        record: The run's conditions.
        device: Where this rank computes.
        precision: The trainer's.
        shards: Ranks that the decoder's layers are divided among.

    Returns:
        The plan as text; nothing, with a warning, where the method does not work without a loaded model.

    Raises:
        ValueError: the run cannot fit, or what `plan_memory` says.
    """
    earlier = record.start_from["plans"] if record.start_from else []
    try:
        plan = plan_memory(
            method,
            data,
            stages,
            precision=precision,
            world_size=record.world_size,
            shards=shards,
            earlier=earlier,
        )
    except Unplannable as error:
        log.warning("no memory plan: %s", error)
        return []
    return [*plan.lines(), f"  there is {require_memory(plan, device, advice(method, data))}"]
