"""DirLoRA: a LoRA of its own for every task, chosen by the true task at test; nothing can be forgotten.

Source: the oracle baseline of SMoLoRA (arXiv 2411.13949, Sec. 5.1, Table 1). Each task's block has the full
rank, so at test a sample uses as much rank as under every other method, while T times as much is stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_cvit.adapters import PRETRAINED
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod, Plan


class DirLoRA(ContinualMethod):
    """One block (and, with `projector: full`, one projector) per task; older ones are frozen.

    A sample of a task that was never learned is answered by the backbone alone; a task that is learned again,
    in a run that starts from another one, is answered by its newest block.
    """

    def __init__(self, backbone: Backbone, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.learned: list[str] = []

    @property
    def access(self) -> DataAccess:
        """The task, always."""
        return DataAccess(task_id_in_training=True, task_id_at_test=True)

    def plan_stage(self, stage: Stage) -> Plan:
        return {
            "new_blocks": [self.rank],
            "freeze_blocks": True,
            "new_projector": True,
            "task": stage.task.name,
        }

    def apply_plan(self, plan: Plan) -> None:
        self.learned.append(plan["task"])

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        newest = {task: index for index, task in enumerate(self.learned)}
        blocks = [newest.get(sample.task, PRETRAINED) for sample in batch.samples]
        index = torch.tensor(blocks)
        gate = (index.unsqueeze(1) == torch.arange(len(self.learned))).float()
        return {"gate": gate, "projector": index.to(batch.prompt_mask.device)}
