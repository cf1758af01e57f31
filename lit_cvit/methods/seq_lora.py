"""SeqLoRA: one LoRA trained on through all tasks; the field's FineTune or LoRA-FT.

Source: the sequential baseline of SMoLoRA (arXiv 2411.13949, Sec. 5.1) and of all the other papers; LoRA
itself is arXiv 2106.09685. Nothing protects old tasks, so it shows how much there is to forget. With `train:
full` it is full fine-tuning in sequence, CITB's FT (arXiv 2310.14510).
"""

from __future__ import annotations

from typing import ClassVar

from lit_cvit.methods.base import ContinualMethod


class SeqLoRA(ContinualMethod):
    """One block per adapted layer, trained on stage after stage."""

    train_modes: ClassVar[tuple[str, ...]] = ("adapters", "full")
