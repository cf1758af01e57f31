"""EProj: a projector for every cluster of tasks, chosen for each sample by keys for its image and its text.

Source: Continual Instruction Tuning for Large Multimodal Models (He et al., arXiv 2311.16206). A stage copies
the pre-trained projector and trains the copy, unless its task is similar enough to an earlier one, whose
projector it then trains on: similarity is the product of the cosines of the mean image, instruction and
answer embeddings, the highest one decides, and below `threshold` the projectors expand. A projector has two
keys. At test a sample goes through the projector for which the cosine of its image features with the one and
of its text features with the other are largest in sum; no task id is read.

Readings and deviations:

* Keys. The published code trains them alone for 2000 steps, at 0.01, on the sum of 1 - cosine with the
  features of the stage's samples. Here they are where that loss is least, the sum of all features brought to
  length 1 (over evenly spaced training samples, as tasks are compared). A projector that is trained on keeps
  its earlier tasks in its keys, each with the same weight; there they move on to the newest.
* No threshold is known from the papers that have EProj as a baseline. The default 1.0 gives each task a
  projector, as the published code does. On the miniatures (`tiny`, all-MiniLM-L6-v2) the similarity of
  GQA with VQAv2 and with VizWiz, and of the two tasks of captions, is 0.59 to 0.70, and at most 0.47 of
  other pairs: 0.5 puts these together.
* LoRA. The paper freezes the language model (`lora: none`, the default). SMoLoRA and LCIA train LoRA under
  all their baselines and do not say how under this one: `own` has a block of full rank for every projector,
  chosen with it, `shared` one that all stages train on. Their configurations take `own`: under `shared` the
  decoder forgets as under SeqLoRA, while LCIA publishes a forgetting of 5.42 for it, and 37.29 for SeqLoRA.
* A sample without an image is compared by its text alone; encoders pool as they do elsewhere in this library
  (`image_encoder: tower` is the mean over the backbone's own vision features), not by class tokens.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lit_cvit.adapters import PRETRAINED
from lit_cvit.analysis.similarity import Transform
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.adapter_set import ProjectorMode
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.prompt_features import TOWER, PromptFeatures
from lit_cvit.methods.task_embedding import LearnedTasks, TaskEmbedder
from lit_cvit.utils.settings import AtLeastOne, NotNegative


class EProj(ContinualMethod):
    """A projector, and with `lora: own` a block per adapted layer, for every cluster of tasks.

    Args:
        backbone: The pre-trained model.
        threshold: A task starts a projector if its similarity to every earlier one is below; 0 never does
            after the first, 1 does for all tasks that differ.
        lora: Whether the decoder has no LoRA (`none`), one of every projector's `own`, or a `shared` one.
        similarity_transform: `none`, or the z-scores and sigmoids of `tir`, the paper's task similarity.
        image_encoder: `tower`, the backbone's own, or the name or folder of a CLIP model.
        text_encoder: Name or folder of a sentence encoder or of a CLIP model; the paper has BERT.
        similarity_samples: Training samples of a task that are embedded.
        projector: `full`; nothing else can be copied.
        kwargs: Settings of every method; `targets` names what carries LoRA, where there is any.

    Raises:
        ValueError: `projector` is not `full`.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("threshold", "similarity_transform", "similarity_samples")

    def __init__(
        self,
        backbone: Backbone,
        threshold: NotNegative = 1.0,
        lora: Literal["none", "own", "shared"] = "none",
        similarity_transform: Transform = "none",
        image_encoder: str = TOWER,
        text_encoder: str = MINILM,
        similarity_samples: AtLeastOne = 1000,
        projector: ProjectorMode = "full",
        **kwargs: Any,
    ) -> None:
        if projector != "full":
            raise ValueError(
                f"EProj copies whole projectors: model.projector must be full, got {projector!r}"
            )
        super().__init__(backbone, projector=projector, **kwargs)
        if lora == "none" and self.targets != ("ffn", "projector"):
            warnings.warn("model.targets has no effect without LoRA (lora: none)", stacklevel=2)
        self.threshold, self.lora, self.similarity_transform = threshold, lora, similarity_transform
        self.embedder = TaskEmbedder(image_encoder, text_encoder, similarity_samples, unit=True)
        self.compared = LearnedTasks(self.embedder, similarity_transform)
        self.features = PromptFeatures(backbone, image_encoder, text_encoder)
        self.clusters: list[list[int]] = []
        self.cluster = PRETRAINED

    @property
    def access(self) -> DataAccess:
        """The encoders, which keys and tasks are embedded by."""
        return DataAccess(encoders=tuple(dict.fromkeys(self.embedder.names)))

    @property
    def adapted_groups(self) -> tuple[str, ...]:
        """None without LoRA."""
        return () if self.lora == "none" else super().adapted_groups

    # -- stages ---------------------------------------------------------------------------------------------

    def growth(self, stage: Stage) -> Plan:
        """At most a projector for every stage; one of them trains."""
        block = self.lora == "own" or self.is_new
        return {
            "new_blocks": [self.rank] if block else [],
            "freeze_blocks": self.lora != "shared",
            "new_projector": True,
        }

    def plan_stage(self, stage: Stage) -> Plan:
        assert stage.task.train is not None
        plan = self.compared.plan(self.backbone, stage.task.train)
        similarities = plan["similarity"]
        cluster = len(self.clusters)
        if similarities and max(similarities) >= self.threshold:
            nearest = similarities.index(max(similarities))
            cluster = next(number for number, own in enumerate(self.clusters) if nearest in own)
        new = cluster == len(self.clusters)
        block = self.is_new if self.lora == "shared" else new
        return {
            **plan,
            "new_blocks": [self.rank] if block else [],
            "new_projector": new,
            "projector_copy": cluster,
            "cluster": cluster,
            "threshold": self.threshold,
        }

    def apply_plan(self, plan: Plan) -> None:
        self.compared.follow(plan)
        self.cluster = plan["cluster"]
        if self.cluster == len(self.clusters):
            self.clusters.append([])
        self.clusters[self.cluster].append(len(self.compared.embeddings) - 1)
        self.adapters.train_only(self.cluster, blocks=self.lora == "own")

    def extra_tensors(self) -> dict[str, Tensor]:
        return self.compared.tensors()

    # -- samples --------------------------------------------------------------------------------------------

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and batch.answer_mask is not None:
            # A stage trains its projector, also on samples that other keys are nearer to.
            chosen = torch.full((len(batch),), self.cluster, device=batch.prompt_mask.device)
        else:
            chosen = self.nearest(batch)
        if self.lora != "own":
            return {"projector": chosen}
        blocks = torch.arange(len(self.clusters), device=chosen.device)
        return {"projector": chosen, "gate": (chosen.unsqueeze(1) == blocks).float()}

    @torch.no_grad()
    def nearest(self, batch: Batch) -> Tensor:
        """The cluster whose keys are nearest to each sample: (S,); -1 before the first stage."""
        if not self.clusters:
            return torch.full((len(batch),), PRETRAINED, device=batch.prompt_mask.device)
        images, texts = self.features.of_images(batch), self.features.of_texts(batch)
        cosines = functional.normalize(texts.values.float()) @ self.keys("instruction").T
        seen = functional.normalize(images.values.float()) @ self.keys("image").T
        return (cosines + images.present.unsqueeze(1) * seen).argmax(1)

    def keys(self, modality: Literal["image", "instruction"]) -> Tensor:
        """The keys of all clusters, of length 1: (clusters, d) float32; 0 where a cluster has no image."""
        tasks = self.compared.embeddings
        sums = [torch.stack([tasks[task][modality] for task in own]).sum(0) for own in self.clusters]
        return functional.normalize(torch.stack(sums)).float().to(self.backbone.model.device)
