"""What a stage's plan adds to banks and projector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lit_cvit.adapters.bank import LoRABank
from lit_cvit.adapters.projector import ProjectorBank


def grow(
    banks: Iterable[LoRABank],
    projector_bank: ProjectorBank | None,
    plan: Mapping[str, Any],
    generator: torch.Generator,
) -> None:
    """Freeze and add blocks, and add a projector copy, as a plan says.

    Args:
        banks: The banks.
        projector_bank: The bank of projector copies, if the projector trains as a whole.
        plan: Its keys `new_blocks`, `freeze_blocks` and `new_projector` are read, each may be missing.
        generator: Source of the new blocks, on the CPU.
    """
    for bank in banks:
        if plan.get("freeze_blocks"):
            for index in range(bank.num_blocks):
                bank.freeze_block(index)
        for rank in plan.get("new_blocks", ()):
            bank.add_block(rank, generator)
    if projector_bank is not None and plan.get("new_projector"):
        if plan.get("freeze_blocks"):
            projector_bank.copies.requires_grad_(False)
        projector_bank.add()
