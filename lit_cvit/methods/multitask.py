"""Multitask: one stage on the shuffled union of all tasks, the joint-training bound of every table."""

from __future__ import annotations

from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.seq_lora import SeqLoRA


class Multitask(SeqLoRA):
    """SeqLoRA's adapter, trained on all tasks at once."""

    @property
    def access(self) -> DataAccess:
        """All tasks at once."""
        return DataAccess(joint_data=True)
