"""L2P: prompts from a pool before the decoder's input, chosen for each sample by its image.

Source: Wang et al., "Learning to Prompt for Continual Learning" (arXiv 2112.08654), a baseline of HiDe-LLaVA,
which says no more of it than that its pool is dynamic. A frozen encoder makes a query q of a sample; the
`top_k` keys with the highest cosine choose as many prompts of `prompt_length` positions, which are put before
the embedded text and image. The loss is that of the answers and `pull` times the mean over samples of
sum_{chosen k} (1 - cos(q, k)), through which alone keys train. Nothing else protects old tasks: what samples
of different tasks do not share is not overwritten.

Readings and deviations:

* The method's paper trains the prompts and a classifier. A decoder's head stays frozen here, so without
  further settings prompts and keys are all that trains. HiDe-LLaVA compares LoRA fine-tuning methods: with
  `targets: [ffn, attention]` and `projector: full` one LoRA and the projector train on beside the pool, as
  in its other baselines. That form is what its experiments have, as our reading.
* Positions. Prompts are a sequence's first positions, behind padding on the left and before the beginning
  of the text, and all else moves up; every batch of the backbone has room for them.
* Prompts start from embeddings of random tokens (arXiv 2104.08691) and not from U(-1, 1), which in a decoder
  is far from any token. Keys are drawn from U(-1, 1), as in the published code.
* The query costs one more pass of the encoder over a batch's images.
* A query is the mean over the backbone's own vision features, or of a CLIP model, and not a class token.
  With `text_encoder` the user's text is the other half of it, each half of length 1. A sample without an
  image has zeros for it: without a text encoder it always takes the first prompts and pulls no key.
* `choice: batch` is the published code's default: all samples of a micro-batch get the prompts that most of
  them choose. It holds in training alone, so that no answer depends on what else is asked.
* The published code has 0.1 for the paper's weight of 0.5, and subtracts the cosines, the same up to a
  constant. As there, Adam's momentum moves a prompt on for some steps after its last use.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_cvit.adapters import current
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.full_weights import warn_unused
from lit_cvit.methods.l2p.pool import PromptPool, majority, nearest
from lit_cvit.methods.prompt_features import TOWER, PromptFeatures
from lit_cvit.utils.settings import AtLeastOne, NotNegative

Targets = tuple[Literal["ffn", "attention", "projector"], ...]


class L2P(ContinualMethod):
    """A pool of prompts that all stages train, beside one LoRA where `targets` names layers for it.

    Args:
        backbone: The pre-trained model; it gets `top_k` times `prompt_length` positions.
        pool_size: Prompts of the pool.
        prompt_length: Positions of a prompt.
        top_k: Prompts of a sample.
        pull: Weight of the term that draws the chosen keys towards the queries.
        choice: Whether in training prompts are chosen for each `sample`, or for all of a micro-`batch`.
        image_encoder: `tower`, the backbone's own, or the name or folder of a CLIP model.
        text_encoder: Name or folder of a sentence encoder or of a CLIP model; empty leaves texts out.
        targets: Groups of layers that carry LoRA.
        kwargs: Settings of every method.

    Raises:
        ValueError: `top_k` is larger than the pool.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("pull", "choice")

    def __init__(
        self,
        backbone: Backbone,
        pool_size: AtLeastOne = 10,
        prompt_length: AtLeastOne = 5,
        top_k: AtLeastOne = 5,
        pull: NotNegative = 0.5,
        choice: Literal["sample", "batch"] = "sample",
        image_encoder: str = TOWER,
        text_encoder: str = "",
        targets: Targets = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, targets=targets, **kwargs)
        if top_k > pool_size:
            raise ValueError(f"model.top_k must be at most model.pool_size {pool_size}, got {top_k}")
        if not self.adapted_groups:
            unused = {name: pair for name, pair in self._of_adapters().items() if name != "targets"}
            warn_unused(unused, f"where no layer carries LoRA (model.targets: {list(targets)})")
        self.pool_size, self.prompt_length, self.top_k = pool_size, prompt_length, top_k
        self.pull, self.choice = pull, choice
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.features = PromptFeatures(backbone, image_encoder, text_encoder)
        self.pool: PromptPool | None = None
        backbone.reserve(top_k * prompt_length)

    @property
    def access(self) -> DataAccess:
        """The encoders of queries."""
        names = [name for name in (self.image_encoder, self.text_encoder) if name not in (TOWER, "")]
        return DataAccess(encoders=tuple(dict.fromkeys(names)))

    def apply_plan(self, plan: Plan) -> None:
        if self.pool is not None:
            return
        embedding = self.backbone.model.get_input_embeddings()
        width = self.features.image_width + (self.features.text_width if self.text_encoder else 0)
        self.pool = PromptPool(
            embedding.weight[: len(self.backbone.tokenizer)],
            size=self.pool_size,
            length=self.prompt_length,
            query_width=width,
            generator=torch.Generator().manual_seed(mix("prompts", plan["seed"])),
        )
        embedding.register_forward_hook(_fill)

    def extra_tensors(self) -> dict[str, Tensor]:
        return {} if self.pool is None else {f"pool.{n}": p.detach() for n, p in self.pool.named_parameters()}

    def query(self, batch: Batch) -> Tensor:
        """What keys are compared with: (S, e) float32."""
        parts = [self.features.of_images(batch).values.float()]
        if self.text_encoder:
            parts.append(self.features.of_texts(batch).values.float())
        return torch.cat([functional.normalize(part) for part in parts], dim=1)

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if self.pool is None:
            raise ValueError("L2P has prompts once a stage has begun")
        query = self.query(batch)
        similarities = self.pool.similarities(query)
        chosen = nearest(similarities.detach(), self.top_k)
        if self.choice == "batch" and self.training and batch.answer_mask is not None:
            chosen = majority(chosen, self.pool_size)
        return {
            "prompts": self.pool(chosen),
            "prompt_start": batch.inputs["attention_mask"].argmax(1),
            "key_distance": (1 - similarities.gather(1, chosen)).sum(1) * query.any(1),
        }

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        if not self.pull:
            return {}
        assert batch.answer_mask is not None
        # A sample that only fills up a rank's batch has no answer.
        distance = (current().fact("key_distance") * batch.answer_mask.any(1)).sum()
        return {"pull": self.share_of_step(distance, batch.step_samples, weight=self.pull)}


def _fill(embedding: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor | None:
    """Put the samples' prompts where the backbone has reserved positions; a forward hook."""
    context = current()
    if context.is_decode_step(embedded.shape[1]):
        return None
    prompts, start = context.fact("prompts"), context.fact("prompt_start").unsqueeze(1)
    rows = torch.arange(len(prompts), device=start.device).unsqueeze(1)
    columns = start + torch.arange(prompts.shape[1], device=start.device)
    return embedded.index_put((rows, columns), prompts.to(embedded.dtype))
