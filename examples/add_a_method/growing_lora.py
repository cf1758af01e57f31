"""GrowingLoRA: a new LoRA block for every task, trained beside the frozen older ones, all of them summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_cvit import Backbone, Batch, ContinualMethod, Stage
from lit_cvit.utils.settings import NotNegative


class GrowingLoRA(ContinualMethod):
    """Older blocks are frozen; a penalty keeps a new block's inputs apart from theirs.

    Args:
        backbone: The pre-trained model.
        penalty: Weight of the overlap between the new block's down-projection and the older ones'.
        kwargs: Settings of every method.
    """

    def __init__(self, backbone: Backbone, penalty: NotNegative = 0.01, **kwargs: Any) -> None:
        super().__init__(backbone, **kwargs)
        self.penalty = penalty

    def plan_stage(self, stage: Stage) -> dict[str, Any]:
        return {"new_blocks": [self.rank], "freeze_blocks": True}

    def loss_terms(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        overlap = torch.zeros((), device=outputs.loss_sum.device)
        for bank in self.banks.values():
            *older, newest = bank.lora_blocks()
            for block in older:
                overlap = overlap + (newest.A @ block.A.T).square().sum()
        return {"overlap": self.penalty * overlap}
