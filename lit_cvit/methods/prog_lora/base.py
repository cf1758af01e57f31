"""ProgLoRA: a progressive pool of LoRA blocks, one more for every task.

Source: Yu et al., "Progressive LoRA for Multimodal Continual Instruction Tuning", Findings of ACL 2025
(2025.findings-acl.143), Sec. 4, Eq. 3-8. There is no published code; where the paper leaves something open,
the reading is named here.

`mode: static` (reads the task id). Task i trains its own block and uses the old, frozen
ones as well, weighted by how alike the tasks are: BLK_i + sum_{p<i} w_{p,i} BLK_p, with w_{p,i} the product
of the cosines of mean image, instruction and answer embeddings (Eq. 3). The weights are not normalised, and
blocks added later never enter. Rows of old tasks are replayed (`callbacks.Replay`): in the paper
(1 - w_{p,i}) * 200 of task p with weight 2, which `configs/methods/prog_lora_static.yaml` asks for.

`mode: dynamic` (reads no task id). Every block has a key. The token embeddings of the user's text are
max-pooled over the tokens and projected to a query (Eq. 5); the softmax of its products with the keys is one
gate per sample for all layers (Eq. 6). `callbacks.TaskRecall` holds the gates that old samples had when
their task ended (Eq. 8); that needs neither the language model nor images.

Readings and deviations:

* Fusion is of block outputs, sum_p w_p B_p A_p x. Averaging A and B would be another model.
* One query projector for all layers: the keys have the decoder's width, which inner layers do not share, and
  the 42 M parameters of Table 13 are a block of rank 16 and one projector with `proj_dim` 256.
* The text pooled is question and instruction: no image, system line, answer or padding, so the gate of a
  sample is the same in training and at test.
* `pool_norm: layer` (ours) brings a pooled text to mean 0 and variance 1. Maxima over tokens share an offset,
  so texts of all tasks are nearly parallel (on `tiny`: cosine 0.96 on average, 0.54 with it), and on a small
  model they are shorter than the projector's biases; every query is then alike, and so is every gate.
* Eq. 8 is written KL(now || stored), which is infinite with stored gates padded by zeros. The default
  `forward` is KL(stored || now); `reverse` is as written, with 1e-8 added to what is stored.
* With one key the softmax is constant, so in the first stage neither projector nor key train.
* Neither temperature nor key initialisation is stated: keys are N(0, 0.02^2) and the temperature is 1.
* "Alpha as MoELoRA" is read as its scaling 2 (alpha 32 at rank 16), not as alpha 256, which would give 16.
* The paper trains one projector as a whole through all tasks, hence `projector: full` here. With `lora` each
  task's projector block freezes too; static answers to old tasks then never change, and replay has no effect
  on them.
* Tasks are compared through encoders with their own pooling (see `task_embedding`), not the class tokens of
  BERT and ViT; z-scores and sigmoids as in TIR, which the paper does not mention, are `similarity_transform`.
* A static sample of a task never learned goes through the newest task's fused block; the paper has none.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_cvit.adapters import LoRABank, Target
from lit_cvit.analysis.similarity import task_similarities
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.encoders import MINILM
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.prog_lora.key_gate import KeyGate, pool_tokens, recall_divergence
from lit_cvit.methods.task_embedding import MODALITIES, TOWER, TaskEmbedder

_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": ("static", "dynamic"),
    "recall": ("callback", "none"),
    "static_weights": ("similarity", "ones"),
    "similarity_transform": ("none", "tir"),
    "replay_block": ("current", "own"),
    "pool": ("max", "mean"),
    "pool_norm": ("none", "layer"),
    "kl_direction": ("forward", "reverse"),
}
_STATIC = {"static_weights": "similarity", "replay_block": "current"}
_DYNAMIC = {
    "pool": "max",
    "pool_norm": "none",
    "proj_dim": 256,
    "temperature": 1.0,
    "key_std": 0.02,
    "train_old_keys": False,
    "kl_direction": "forward",
}


class ProgLoRA(ContinualMethod):
    """A block per task; old ones are frozen and used with weights.

    Args:
        backbone: The pre-trained model.
        mode: `static` weights blocks by the similarity of tasks and reads the task id; `dynamic` weights them
            for each sample by keys and reads no task id.
        recall: Where old tasks are recalled: by the mode's `callback` (Replay, TaskRecall), or `none`.
        static_weights: Weights of old blocks: the `similarity` of the tasks, or `ones` (Table 3).
        similarity_transform: `none`, or the z-scores and sigmoids of `tir`.
        replay_block: Training rows of old tasks go through the `current` task's fused block, or their `own`.
        pool: How the user's tokens become one vector: `max` or `mean`.
        pool_norm: That vector as it is (`none`), or with mean 0 and variance 1 over its entries (`layer`).
        proj_dim: Inner width of the query projector.
        temperature: What products of query and key are divided by.
        key_std: Standard deviation of a fresh key.
        train_old_keys: Whether keys of old blocks train on.
        kl_direction: `forward` is KL(stored || now), `reverse` KL(now || stored).
        image_encoder: Compares images of tasks: `tower`, the backbone's own, or a CLIP model.
        text_encoder: Compares texts of tasks: a sentence encoder or CLIP model; null measures no similarity.
        similarity_samples: Training samples of a task that are embedded.
        scaling: Factor of a block's output; null means alpha / rank.
        projector: As in every method; the paper trains it as a whole.
        kwargs: Settings of every method; `rank` is that of one block.

    Raises:
        ValueError: a setting is out of range, or weights by similarity have no `text_encoder`.
    """

    def __init__(
        self,
        backbone: Backbone,
        mode: Literal["static", "dynamic"] = "static",
        recall: Literal["callback", "none"] = "callback",
        static_weights: Literal["similarity", "ones"] = "similarity",
        similarity_transform: Literal["none", "tir"] = "none",
        replay_block: Literal["current", "own"] = "current",
        pool: Literal["max", "mean"] = "max",
        pool_norm: Literal["none", "layer"] = "none",
        proj_dim: int = 256,
        temperature: float = 1.0,
        key_std: float = 0.02,
        train_old_keys: bool = False,
        kl_direction: Literal["forward", "reverse"] = "forward",
        image_encoder: str = TOWER,
        text_encoder: str | None = MINILM,
        similarity_samples: int = 1000,
        scaling: float | None = 2.0,
        projector: Literal["lora", "full", "frozen"] = "full",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, projector=projector, **kwargs)
        self.mode, self.recall = mode, recall
        self.static_weights, self.similarity_transform = static_weights, similarity_transform
        self.replay_block, self.pool, self.pool_norm = replay_block, pool, pool_norm
        self.proj_dim = proj_dim
        self.temperature, self.key_std, self.train_old_keys = temperature, key_std, train_old_keys
        self.kl_direction = kl_direction
        self.scaling = self.alpha / self.rank if scaling is None else scaling
        self._check(similarity_samples, text_encoder)
        self.embedder = TaskEmbedder(image_encoder, text_encoder or "", similarity_samples)
        self.measures = text_encoder is not None and (self._weighs or recall == "callback")
        for option, reason in self._ignored(scaling).items():
            warnings.warn(f"model.{option} has no effect {reason}", stacklevel=2)
        self.learned: list[str] = []
        self.fusion: list[list[float]] = []
        self.embeddings: list[dict[str, Tensor]] = []
        self.key_gate: KeyGate | None = None
        self._fresh: dict[str, Tensor] | None = None
        self._similarity: list[float] | None = None

    def _check(self, similarity_samples: int, text_encoder: str | None) -> None:
        for option, allowed in _CHOICES.items():
            if getattr(self, option) not in allowed:
                got = getattr(self, option)
                raise ValueError(f"model.{option} must be one of {', '.join(allowed)}; got {got!r}")
        for option, value in (("proj_dim", self.proj_dim), ("similarity_samples", similarity_samples)):
            if value < 1:
                raise ValueError(f"model.{option} must be at least 1, got {value}")
        for option, number in (("temperature", self.temperature), ("key_std", self.key_std)):
            if not number > 0:
                raise ValueError(f"model.{option} must be more than 0, got {number}")
        if text_encoder is None and self._weighs:
            raise ValueError("model.static_weights 'similarity' needs a model.text_encoder, got null")

    def _ignored(self, scaling: float | None) -> dict[str, str]:
        """Options that differ from their defaults and change nothing, with the reason."""
        others = _DYNAMIC if self.mode == "static" else _STATIC
        found = {
            name: f"in mode {self.mode}" for name, default in others.items() if getattr(self, name) != default
        }
        if not self.measures and self.similarity_transform != "none":
            found["similarity_transform"] = "where no similarity is measured"
        if scaling is not None and self.alpha not in (256, scaling * self.rank):
            found["alpha"] = f"beside model.scaling {scaling}; set that to null to scale by alpha / rank"
        if self.mode == "static" and self.replay_block == "own" and self.projector != "full":
            found["replay_block"] = f"on old rows that train nothing (projector: {self.projector})"
        return found

    @property
    def _weighs(self) -> bool:
        return self.mode == "static" and self.static_weights == "similarity"

    @property
    def access(self) -> DataAccess:
        """Static reads the task id; both recall old data, and compare tasks by encoders."""
        static = self.mode == "static"
        return DataAccess(
            task_id_in_training=static,
            task_id_at_test=static,
            old_data=self.recall == "callback",
            encoders=self.embedder.names if self.measures else (),
        )

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """The callback that recalls old tasks, unless `recall: none`."""
        if self.recall == "none":
            return ()
        return ("Replay",) if self.mode == "static" else ("TaskRecall",)

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
            self._fresh = self.embedder.embed(self.backbone, stage.task.train)
            tasks = [[each[modality] for modality in MODALITIES] for each in (*self.embeddings, self._fresh)]
            plan["similarity"] = task_similarities(tasks, transform=self.similarity_transform)
            plan["embedding"] = {modality: len(vector) for modality, vector in self._fresh.items()}
        return plan

    def apply_plan(self, plan: Plan) -> None:
        self.learned.append(plan["task"])
        self._similarity = plan.get("similarity")
        if "embedding" in plan:
            # A plan that is followed again finds its embedding among the saved tensors.
            empty = {name: torch.zeros(size, dtype=torch.float64) for name, size in plan["embedding"].items()}
            self.embeddings.append(self._fresh or empty)
            self._fresh = None
        old = self._similarity if self._weighs else [1.0] * (len(self.learned) - 1)
        assert old is not None
        self.fusion.append([*old, 1.0])
        if self.mode == "dynamic":
            self._add_key(torch.Generator().manual_seed(mix("key", plan["seed"])))

    def _add_key(self, generator: torch.Generator) -> None:
        table = self.backbone.model.get_input_embeddings()
        if self.key_gate is None:
            self.key_gate = KeyGate(
                table.weight.shape[1],
                self.proj_dim,
                temperature=self.temperature,
                key_std=self.key_std,
                generator=generator,
            ).to(table.weight.device)
        self.key_gate.add_key(generator)
        self.key_gate.train_only(old_keys=self.train_old_keys)

    def similarities(self) -> dict[str, float]:
        """Similarity of the current task with each earlier one, by name; only if `measures`."""
        assert self._similarity is not None
        return dict(zip(self.learned, self._similarity, strict=False))

    def extra_tensors(self) -> dict[str, Tensor]:
        tensors = {
            f"task_embeddings.{number}.{modality}": vector
            for number, embedding in enumerate(self.embeddings)
            for modality, vector in embedding.items()
        }
        if self.key_gate is not None:
            tensors |= {f"key_gate.{name}": value for name, value in self.key_gate.state_dict().items()}
        return tensors

    # -- gates ----------------------------------------------------------------------------------------------

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if not self.learned:
            return {}
        if self.mode == "static":
            return {"gate": self._static_gate(batch).to(batch.prompt_mask.device)}
        return {"gate": self.gates(self.instruction_features(batch.samples))}

    def _static_gate(self, batch: Batch) -> Tensor:
        newest = len(self.learned) - 1
        if self.training and batch.answer_mask is not None and self.replay_block == "current":
            rows = [newest] * len(batch)
        else:
            own = {task: number for number, task in enumerate(self.learned)}
            rows = [own.get(sample.task, newest) for sample in batch.samples]
        table = torch.zeros(len(self.fusion), len(self.fusion))
        for number, weights in enumerate(self.fusion):
            table[number, : len(weights)] = torch.tensor(weights)
        return table[rows]

    @torch.no_grad()
    def instruction_features(self, samples: Sequence[Sample]) -> Tensor:
        """The pooled token embeddings of the users' texts: (S, d) float32; opens no image."""
        encoder, table = self.backbone.encoder, self.backbone.model.get_input_embeddings()
        texts = [sample.user_text for sample in samples]
        tokens = encoder.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        rows = [[token for token in row if token != encoder.image_id] for row in tokens["input_ids"]]
        ids = torch.full((len(rows), max(1, *map(len, rows))), encoder.pad_id)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, dtype=ids.dtype)
            mask[number, : len(row)] = True
        device = table.weight.device
        pooled = pool_tokens(table(ids.to(device)), mask.to(device), self.pool)
        return functional.layer_norm(pooled, pooled.shape[1:]) if self.pool_norm == "layer" else pooled

    def gates(self, features: Tensor) -> Tensor:
        """The dynamic gates of pooled texts (S, d): (S, blocks)."""
        return self._keys(features)

    def gate_divergence(self, features: Tensor, targets: Tensor) -> Tensor:
        """How far the gates of pooled texts (S, d) are from stored ones (S, p <= blocks): (S,)."""
        return recall_divergence(self._keys.log_gates(features), targets, self.kl_direction)

    @property
    def _keys(self) -> KeyGate:
        if self.key_gate is None:
            raise ValueError(f"ProgLoRA has keys in mode dynamic, after a stage has begun; mode: {self.mode}")
        return self.key_gate
