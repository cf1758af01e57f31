"""DoRA: one weight-decomposed LoRA trained on through all tasks.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353, Eq. 5, Sec. 4.3), which
SMoLoRA compares with as a sequential baseline. Magnitude and direction of every adapted layer's weight train
apart; nothing protects old tasks. The layer is `lit_cvit.adapters.dora`.

Dropout is on the low-rank branch alone, as in PEFT. The optimizer's weight decay reaches the magnitude too.
"""

from __future__ import annotations

from typing import ClassVar

from lit_cvit.adapters import DoRABank, LoRABank
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.methods.hooks import READS_FROZEN_WEIGHTS


class DoRA(ContinualMethod):
    """One block with a magnitude per adapted layer, trained on stage after stage."""

    bank_class: ClassVar[type[LoRABank]] = DoRABank

    @property
    def sharding_unsupported_reason(self) -> str:
        """A magnitude starts as the norm of a frozen row."""
        return READS_FROZEN_WEIGHTS
