"""EWC with task-similarity-informed regularisation (TIR): what old tasks need is held less where they help.

Source: He et al., "Continual Instruction Tuning for Large Multimodal Models", arXiv 2311.16206, Sec. 4.2; a
baseline of SMoLoRA (its EWC+TIR), which states no setting. Every element keeps the largest importance that a
task gave it, and which task that was. In stage t the importance is multiplied by 1 - s(t, that task): the
less alike two tasks are, the more the older one is protected. s is the product over images, instructions and
answers of sigmoid(z-score of the cosine of the tasks' mean embeddings), the z-scores being among all pairs of
tasks so far (`lit_cvit.analysis.similarity`). The anchor is what the last stage left.

The official code divides each task's importance by its sum (`scale: sum`) and has lambda 1e8 where a whole
language model trains. That sum is then 1 however many parameters there are, so adapters need far less.
Encoders are any that the configuration names, with their own pooling; there, class tokens of BERT and ViT.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import Plan
from lit_cvit.methods.ewc.ewc import EWC
from lit_cvit.methods.prompt_features import TOWER
from lit_cvit.methods.task_embedding import LearnedTasks, TaskEmbedder
from lit_cvit.utils.settings import AtLeastOne, NotNegative


class EWCTIR(EWC):
    """EWC whose importances are scaled by how unlike the old task and the new one are.

    Args:
        backbone: The pre-trained model.
        strength: lambda.
        scale: As in `EWC`; tasks are compared element by element, so here they are brought to one scale.
        image_encoder: Compares images of tasks: `tower`, the backbone's own, or a CLIP model.
        text_encoder: Compares texts of tasks: a sentence encoder or CLIP model.
        similarity_samples: Training samples of a task that are embedded.
        kwargs: Settings of EWC, but for `combine`, and of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("similarity_samples",)

    def __init__(
        self,
        backbone: Backbone,
        strength: NotNegative = 1e4,
        scale: Literal["none", "sum"] = "sum",
        image_encoder: str = TOWER,
        text_encoder: str = MINILM,
        similarity_samples: AtLeastOne = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, strength=strength, combine="max", scale=scale, **kwargs)
        self.compared = LearnedTasks(TaskEmbedder(image_encoder, text_encoder, similarity_samples), "tir")
        # For each element, the number of the task that its importance is from.
        self.owner: dict[str, Tensor] = {}

    @property
    def access(self) -> DataAccess:
        """Tasks are compared by encoders."""
        return DataAccess(encoders=self.compared.embedder.names)

    @property
    def encoders_at_test(self) -> tuple[str, ...]:
        """None: tasks are compared when their stages begin, and the plans say what came out."""
        return ()

    @property
    def training_copies(self) -> int:
        """The anchors, the importances, and these as they are scaled in a stage."""
        return 3

    def importance_of(self, name: str) -> Tensor | None:
        importance = self.importance[name]
        assert self.compared.similarity is not None
        unlike = 1 - importance.new_tensor(self.compared.similarity)
        return importance * unlike[self.owner[name].long()]

    def growth(self, stage: Stage) -> Plan:
        return super().plan_stage(stage)

    def plan_stage(self, stage: Stage) -> Plan:
        assert stage.task.train is not None
        return {**super().plan_stage(stage), **self.compared.plan(self.backbone, stage.task.train)}

    def apply_plan(self, plan: Plan) -> None:
        super().apply_plan(plan)
        self.compared.follow(plan)
        for name, importance in self.importance.items():
            if name not in self.owner:
                self.owner[name] = torch.zeros_like(importance, dtype=torch.int16)

    def combined(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        newest = len(self.compared.embeddings) - 1
        self.owner[name] = self.owner[name].to(new.device).masked_fill(new > old, newest)
        return super().combined(name, old, new)

    def extra_tensors(self) -> dict[str, Tensor]:
        owners = {f"fisher_task.{name}": value for name, value in self.owner.items()}
        return super().extra_tensors() | owners | self.compared.tensors()
