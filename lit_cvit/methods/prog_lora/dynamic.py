"""ProgLoRA, dynamic allocation: a sample's text weights the blocks through their keys (Eq. 5, 6, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.methods.base import Plan
from lit_cvit.methods.prog_lora.base import ProgLoRABase
from lit_cvit.methods.prog_lora.key_gate import KeyGate, pool_tokens, recall_divergence
from lit_cvit.utils.settings import AtLeastOne, Positive


class ProgLoRADynamic(ProgLoRABase):
    """A block and a key per task, and one gate per sample from its text; reads no task id.

    The token embeddings of the user's text are max-pooled over the tokens and projected to a query (Eq. 5);
    the softmax of its products with the keys is one gate per sample for all layers (Eq. 6).
    `callbacks.TaskRecall` holds the gates that old samples had when their task ended (Eq. 8); that needs
    neither the language model nor images.

    Readings and deviations, beside those of both forms (`lit_cvit.methods.prog_lora.base`):

    * One query projector for all layers: the keys have the decoder's width, which inner layers do not share,
      and the 42 M parameters of Table 13 are a block of rank 16 and one projector with `proj_dim` 256.
    * The text pooled is question and instruction: no image, system line, answer or padding, so the gate of a
      sample is the same in training and at test.
    * `pool_norm: layer` (ours) brings a pooled text to mean 0 and variance 1. Maxima over tokens share an
      offset, so texts of all tasks are nearly parallel (on `tiny`: cosine 0.96 on average, 0.54 with it), and
      on a small model they are shorter than the projector's biases; every query is then alike, and so is
      every gate.
    * Eq. 8 is written KL(now || stored), which is infinite with stored gates padded by zeros. The default
      `forward` is KL(stored || now); `reverse` is as written, with 1e-8 added to what is stored.
    * With one key the softmax is constant, so in the first stage neither projector nor key train.
    * Neither temperature nor key initialisation is stated: keys are N(0, 0.02^2) and the temperature is 1.

    Args:
        backbone: The pre-trained model.
        pool: How the user's tokens become one vector: `max` or `mean`.
        pool_norm: That vector as it is (`none`), or with mean 0 and variance 1 over its entries (`layer`).
        proj_dim: Inner width of the query projector.
        temperature: What products of query and key are divided by.
        key_std: Standard deviation of a fresh key.
        train_old_keys: Whether keys of old blocks train on.
        kl_direction: `forward` is KL(stored || now), `reverse` KL(now || stored).
        kwargs: Settings of both forms, and of every method; `rank` is that of one block.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("key_std", "train_old_keys", "kl_direction")

    def __init__(
        self,
        backbone: Backbone,
        pool: Literal["max", "mean"] = "max",
        pool_norm: Literal["none", "layer"] = "none",
        proj_dim: AtLeastOne = 256,
        temperature: Positive = 1.0,
        key_std: Positive = 0.02,
        train_old_keys: bool = False,
        kl_direction: Literal["forward", "reverse"] = "forward",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, weighs=False, **kwargs)
        self.pool, self.pool_norm, self.proj_dim = pool, pool_norm, proj_dim
        self.temperature, self.key_std, self.train_old_keys = temperature, key_std, train_old_keys
        self.kl_direction = kl_direction
        self.key_gate: KeyGate | None = None

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """The callback that recalls old tasks, unless `recall: none`."""
        return () if self.recall == "none" else ("TaskRecall",)

    def weight_block(self, plan: Plan) -> None:
        generator = torch.Generator().manual_seed(mix("key", plan["seed"]))
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

    def extra_tensors(self) -> dict[str, Tensor]:
        keys = {} if self.key_gate is None else self.key_gate.state_dict()
        return {**super().extra_tensors(), **{f"key_gate.{name}": value for name, value in keys.items()}}

    # -- gates ----------------------------------------------------------------------------------------------

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if self.key_gate is None:
            return {}
        return {"gate": self.gates(self.gate_features(batch.samples))}

    @property
    def num_gates(self) -> int:
        """Blocks that a gate weights, one per task so far."""
        return len(self.learned)

    @torch.no_grad()
    def gate_features(self, samples: Sequence[Sample]) -> Tensor:
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
        """The gates of pooled texts (S, d): (S, blocks)."""
        return self._keys(features)

    def gate_divergence(self, features: Tensor, targets: Tensor) -> Tensor:
        """How far the gates of pooled texts (S, d) are from stored ones (S, p <= blocks): (S,)."""
        return recall_divergence(self._keys.log_gates(features), targets, self.kl_direction)

    @property
    def _keys(self) -> KeyGate:
        if self.key_gate is None:
            raise ValueError("ProgLoRADynamic has keys once a stage has begun")
        return self.key_gate
