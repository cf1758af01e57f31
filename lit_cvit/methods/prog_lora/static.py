"""ProgLoRA, static allocation: old blocks are weighted by the similarity of tasks (Eq. 3, 4)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.tasks import Batch
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import Plan
from lit_cvit.methods.prog_lora.base import ProgLoRABase, warn_ignored


class ProgLoRAStatic(ProgLoRABase):
    """A block per task, and old blocks with fixed weights, by how alike the tasks are; reads the task id.

    Task i trains its own block and uses the old, frozen ones as well: BLK_i + sum_{p<i} w_{p,i} BLK_p, with
    w_{p,i} the product of the cosines of mean image, instruction and answer embeddings (Eq. 3). The weights
    are not normalised, and blocks added later never enter. Rows of old tasks are replayed
    (`callbacks.Replay`): in the paper (1 - w_{p,i}) * 200 of task p with weight 2, which
    `configs/methods/prog_lora_static.yaml` asks for.

    Readings and deviations, beside those of both forms (`lit_cvit.methods.prog_lora.base`):

    * A sample of a task never learned goes through the newest task's fused block; the paper has none.
    * With `projector: lora` each task's projector block freezes too; answers to old tasks then never change,
      and replay has no effect on them.

    Args:
        backbone: The pre-trained model.
        static_weights: Weights of old blocks: the `similarity` of the tasks, or `ones` (Table 3).
        replay_block: Training rows of old tasks go through the `current` task's fused block, or their `own`.
        recall: Whether Replay is required (`callback`) or not (`none`).
        text_encoder: Compares texts of tasks: a sentence encoder or CLIP model; null measures no similarity.
        kwargs: Settings of both forms, and of every method; `rank` is that of one block.

    Raises:
        ValueError: weights by similarity have no `text_encoder`.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("replay_block",)

    def __init__(
        self,
        backbone: Backbone,
        static_weights: Literal["similarity", "ones"] = "similarity",
        replay_block: Literal["current", "own"] = "current",
        recall: Literal["callback", "none"] = "callback",
        text_encoder: str | None = MINILM,
        **kwargs: Any,
    ) -> None:
        weighs = static_weights == "similarity"
        if weighs and text_encoder is None:
            raise ValueError("model.static_weights 'similarity' needs a model.text_encoder, got null")
        super().__init__(backbone, recall=recall, text_encoder=text_encoder, weighs=weighs, **kwargs)
        self.static_weights, self.replay_block = static_weights, replay_block
        if replay_block == "own" and self.projector != "full":
            warn_ignored("replay_block", f"on old rows that train nothing (projector: {self.projector})")
        self.fusion: list[list[float]] = []

    @property
    def access(self) -> DataAccess:
        """The task id as well: it chooses a sample's fused block."""
        return super().access.also("task_id_in_training", "task_id_at_test")

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """The callback that recalls old tasks, unless `recall: none`."""
        return () if self.recall == "none" else ("Replay",)

    def weight_block(self, plan: Plan) -> None:
        old = plan["similarity"] if self.static_weights == "similarity" else [1.0] * (len(self.learned) - 1)
        self.fusion.append([*old, 1.0])

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if not self.learned:
            return {}
        newest = len(self.learned) - 1
        if self.training and batch.answer_mask is not None and self.replay_block == "current":
            rows = [newest] * len(batch)
        else:
            own = {task: number for number, task in enumerate(self.learned)}
            rows = [own.get(sample.task, newest) for sample in batch.samples]
        table = torch.zeros(len(self.fusion), len(self.fusion))
        for number, weights in enumerate(self.fusion):
            table[number, : len(weights)] = torch.tensor(weights)
        return {"gate": table[rows]}
