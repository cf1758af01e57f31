"""Multitask: one stage on the shuffled union of all tasks, the joint-training bound of every table."""

from __future__ import annotations

from lit_cvit.methods.knows import Knows
from lit_cvit.methods.seq_lora import SeqLoRA


class Multitask(SeqLoRA):
    """SeqLoRA's adapter, trained on all tasks at once."""

    @property
    def knows(self) -> Knows:
        """All tasks at once."""
        return Knows(joint_data=True)
