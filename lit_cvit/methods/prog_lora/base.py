"""What both forms of ProgLoRA share: a progressive pool of LoRA blocks, one more for every task.

Source: Yu et al., "Progressive LoRA for Multimodal Continual Instruction Tuning", Findings of ACL 2025
(2025.findings-acl.143), Sec. 4. There is no published code; where the paper leaves something open, the
reading is named here or in the class it belongs to.

Readings and deviations of both:

* Fusion is of block outputs, sum_p w_p B_p A_p x. Averaging A and B would be another model.
* "Alpha as MoELoRA" is read as its scaling 2 (alpha 32 at rank 16), not as alpha 256, which would give 16.
* The paper trains one projector as a whole through all tasks, hence `projector: full` here.
* Tasks are compared through encoders with their own pooling (see `task_embedding`), not the class tokens of
  BERT and ViT; z-scores and sigmoids as in TIR, which the paper does not mention, are `similarity_transform`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lit_cvit.adapters import LoRABank, Target
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.adapter_set import ProjectorMode
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.prompt_features import TOWER
from lit_cvit.methods.task_embedding import LearnedTasks, TaskEmbedder
from lit_cvit.utils.settings import AtLeastOne


class ProgLoRABase(ContinualMethod, ABC):
    """A block per task; old ones are frozen and used with weights, which a subclass gives.

    Args:
        backbone: The pre-trained model.
        recall: Where old tasks are recalled: by the method's `callback`, or `none`.
        similarity_transform: `none`, or the z-scores and sigmoids of `tir`.
        image_encoder: Compares images of tasks: `tower`, the backbone's own, or a CLIP model.
        text_encoder: Compares texts of tasks: a sentence encoder or CLIP model; null measures no similarity.
        similarity_samples: Training samples of a task that are embedded.
        scaling: Factor of a block's output; null means alpha / rank.
        projector: As in every method; the paper trains it as a whole.
        weighs: Whether the method's weights are similarities; a recall by similarity measures them as well.
        kwargs: Settings of every method; `rank` is that of one block.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("recall", "similarity_transform", "similarity_samples")

    def __init__(
        self,
        backbone: Backbone,
        recall: Literal["callback", "none"] = "callback",
        similarity_transform: Literal["none", "tir"] = "none",
        image_encoder: str = TOWER,
        text_encoder: str | None = MINILM,
        similarity_samples: AtLeastOne = 1000,
        scaling: float | None = 2.0,
        projector: ProjectorMode = "full",
        *,
        weighs: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, projector=projector, **kwargs)
        self.recall, self.similarity_transform = recall, similarity_transform
        self.scaling = self.alpha / self.rank if scaling is None else scaling
        embedder = TaskEmbedder(image_encoder, text_encoder or "", similarity_samples)
        self.compared = LearnedTasks(embedder, similarity_transform)
        self.measures = text_encoder is not None and (weighs or recall == "callback")
        if not self.measures and similarity_transform != "none":
            warn_ignored("similarity_transform", "where no similarity is measured")
        if scaling is not None and self.alpha not in (256, scaling * self.rank):
            reason = f"beside model.scaling {scaling}; set that to null to scale by alpha / rank"
            warn_ignored("alpha", reason)
        self.learned: list[str] = []

    @property
    def access(self) -> DataAccess:
        """Recall reads old data, and tasks are compared by encoders."""
        names = self.compared.embedder.names if self.measures else ()
        return DataAccess(old_data=self.recall == "callback", encoders=names)

    @property
    def encoders_at_test(self) -> tuple[str, ...]:
        """None: tasks are compared when their stages begin, and the plans say what came out."""
        return ()

    @abstractmethod
    def weight_block(self, plan: Plan) -> None:
        """Set up what weights the stage's new block; the plan's similarities are known by now."""

    # -- stages ---------------------------------------------------------------------------------------------

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        return LoRABank(
            base,
            name,
            kind=target.kind,
            scaling=self.scaling,
            dropout=self.dropout,
            default_gate="ones",
        )

    def growth(self, stage: Stage) -> Plan:
        return {"new_blocks": [self.rank], "freeze_blocks": True, "new_projector": self.is_new}

    def plan_stage(self, stage: Stage) -> Plan:
        plan: Plan = {**self.growth(stage), "task": stage.task.name}
        if self.measures:
            assert stage.task.train is not None
            plan |= self.compared.plan(self.backbone, stage.task.train)
        return plan

    def apply_plan(self, plan: Plan) -> None:
        self.learned.append(plan["task"])
        self.compared.follow(plan)
        self.weight_block(plan)

    def similarities(self) -> dict[str, float]:
        """Similarity of the current task with each earlier one, by name; only if `measures`."""
        assert self.compared.similarity is not None
        return dict(zip(self.learned, self.compared.similarity, strict=False))

    def extra_tensors(self) -> dict[str, Tensor]:
        return self.compared.tensors()


def warn_ignored(option: str, reason: str) -> None:
    """Warn that an option changes nothing."""
    warnings.warn(f"model.{option} has no effect {reason}", stacklevel=3)
