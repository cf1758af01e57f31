"""SMoLoRA: separable mixture of low-rank adaptations (arXiv 2411.13949, Eq. 3-9, Fig. 2).

Every adapted layer carries two groups of blocks. Visual-understanding (VU) blocks are chosen by the mean of
the layer's own input over the instance (Eq. 5), instruction-following (IF) blocks by the sentence embedding
of the instruction (Eq. 6); the two outputs are mixed per token by adaptive fusion (Eq. 8-9).

With top-1, as published, both the paper's softmax over one kept logit and the official one-hot are the
constant 1 on the winner. The routers get no gradient: they are random projections, fixed here by a seed.

Differences of the official code (Minato-Zackie/SMoLoRA, PEFT_SMoLoRA/peft/tuners/smolora.py), all taken over
by `preset: official` and none by the default, which follows the paper's intention:

* Eq. 6 embeds the sample's instruction; the code keeps one embedding per task and picks it by the task id,
  also at test (:432, ins_gen.py; tasks of one instruction share it, multi-type takes the mean of the five).
* Eq. 5 averages over the instance; the code includes padding and, in training, the answer (:425).
* The code routes anew from every generated token; here the gate of the prompt is kept.
* The code draws A from N(0, 0.01^2) (:301); the paper does not say, and the default is LoRA's own.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters import (
    DECODER,
    LoRABank,
    Target,
    current,
    routing,
)
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Sample, Task
from lit_cvit.encoders import MINILM, SentenceEncoder
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.smolora.router import DualRouter
from lit_cvit.utils.distributed import summed
from lit_cvit.utils.settings import AtLeastOne, Range

_ROUTER_SEED = "router_seed"


class SMoLoRA(ContinualMethod):
    """Two routed groups of blocks per layer, fused per token.

    Args:
        backbone: The pre-trained model.
        num_vu: Visual-understanding blocks of a layer.
        num_if: Instruction-following blocks of a layer.
        use_vu: Whether there is a visual-understanding branch; without it, all blocks follow instructions.
        use_if: Whether there is an instruction-following branch; without it, all blocks are visual.
        top_k: Blocks kept in each branch; from 2 on the routers train.
        fusion: `adaptive` (Eq. 8-9), or the plain `mean` of the two branches (Table 4).
        preset: `paper`, or `official` for the routing of the published code (see the module's text).
        vu_center: Subtract from the instance mean a reference mean: the mean over the first training
            micro-batch that the layer sees, then fixed and saved. Ours, to study how much the common part of
            the means decides the routing.
        encoder: Name or folder of the sentence encoder, any that sentence-transformers runs.
        normalize: Whether the encoder's own `Normalize` module runs, which scales embeddings to length 1; the
            official code leaves it out.
        router_seed: Seed of the routing matrices; by default that of the run. The plan of the first stage
            records it, and a run that starts from another one keeps that run's routers.
        kwargs: Settings of every method; `rank` is the total over all blocks.
    """

    # The routers are among the tensors that a run stores.
    free_settings = ("router_seed",)

    def __init__(
        self,
        backbone: Backbone,
        num_vu: Annotated[int, Range(at_least=0)] = 4,
        num_if: Annotated[int, Range(at_least=0)] = 4,
        use_vu: bool = True,
        use_if: bool = True,
        top_k: AtLeastOne = 1,
        fusion: Literal["adaptive", "mean"] = "adaptive",
        preset: Literal["paper", "official"] = "paper",
        vu_center: bool = False,
        encoder: str = MINILM,
        normalize: bool = False,
        router_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not (use_vu or use_if):
            raise ValueError("SMoLoRA needs a branch: set model.use_vu or model.use_if (or use SeqLoRA)")
        self.num_vu = (num_vu + (0 if use_if else num_if)) if use_vu else 0
        self.num_if = (num_if + (0 if use_vu else num_vu)) if use_if else 0
        self.num_blocks = self.num_vu + self.num_if
        self.top_k, self.fusion, self.preset, self.vu_center = top_k, fusion, preset, vu_center
        self._check_blocks()
        self.router_seed = router_seed
        self.encoder = SentenceEncoder(encoder, normalize)
        for option, reason in self._ignored(use_vu, use_if).items():
            warnings.warn(f"model.{option} has no effect {reason}", stacklevel=2)
        self._instructions: dict[str, tuple[str, ...]] = {}
        self._centred = False

    def _check_blocks(self) -> None:
        if not self.num_blocks:
            raise ValueError("SMoLoRA needs blocks: model.num_vu and model.num_if are both 0")
        smallest = min(n for n in (self.num_vu, self.num_if) if n)
        if self.top_k > smallest:
            raise ValueError(
                f"model.top_k must be at most {smallest}, the blocks of a branch; got {self.top_k}"
            )
        if self.rank % self.num_blocks:
            raise ValueError(
                f"model.rank must be a multiple of {self.num_blocks}, the blocks of a layer; got {self.rank}"
            )

    def _ignored(self, use_vu: bool, use_if: bool) -> dict[str, str]:
        """Options that differ from their defaults and change nothing, with the reason."""
        no_vu = f"without a visual-understanding branch ({'num_vu: 0' if use_vu else 'use_vu: false'})"
        no_if = f"without an instruction-following branch ({'num_if: 0' if use_if else 'use_if: false'})"
        both = self.num_vu > 0 and self.num_if > 0
        # Where a branch has one block there is nothing to choose, and only Eq. 8's vectors are drawn too.
        drawn = max(self.num_vu, self.num_if) > 1 or (both and self.fusion == "adaptive")
        # The largest product with an embedding does not depend on its length; a mean of several does.
        by_direction = self.top_k == 1 and self.preset == "paper"
        why_not_normalize = "with top_k: 1, which compares directions alone" if self.num_if else no_if
        found = {
            "vu_center": (self.vu_center and not self.num_vu, no_vu),
            "fusion": (self.fusion != "adaptive" and not both, no_if if self.num_vu else no_vu),
            "encoder": (self.encoder.name != MINILM and not self.num_if, no_if),
            "normalize": (self.encoder.normalize and (not self.num_if or by_direction), why_not_normalize),
            "router_seed": (
                bool(self.router_seed) and not drawn,
                "where no branch has blocks to choose from",
            ),
        }
        return {option: reason for option, (ignored, reason) in found.items() if ignored}

    @property
    def access(self) -> DataAccess:
        """The instruction, and under the official preset the task it comes from."""
        official = self.preset == "official"
        return DataAccess(
            task_id_in_training=official and self.num_if > 0,
            task_id_at_test=official and self.num_if > 0,
            instruction=self.num_if > 0,
            encoders=(self.encoder.name,) if self.num_if else (),
        )

    def plan_stage(self, stage: Stage) -> Plan:
        if not self.is_new:
            return {"new_blocks": [], "new_projector": False}
        ranks = [self.rank // self.num_blocks] * self.num_blocks
        seed = stage.seed if self.router_seed is None else self.router_seed
        return {"new_blocks": ranks, "new_projector": True, _ROUTER_SEED: seed}

    def apply_plan(self, plan: Plan) -> None:
        # Runs of earlier versions have no such key: their routers are those that the banks were made with.
        if _ROUTER_SEED in plan:
            for name, bank in self.banks.items():
                assert isinstance(bank.router, DualRouter)
                bank.router.draw(_generator(plan[_ROUTER_SEED], name))

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        official = self.preset == "official"
        router = DualRouter(
            base.in_features,
            base.out_features,
            num_vu=self.num_vu,
            num_if=self.num_if,
            instruction_size=self.encoder.dimension if self.num_if else 1,
            generator=_generator(self.router_seed or 0, name),
            top_k=self.top_k,
            fusion=self.fusion,
            statistics="all" if official else "prompt",
            decode="reroute" if official else "hold",
            vu_center=self.vu_center,
        )
        return LoRABank(
            base,
            name,
            kind=target.kind,
            scaling=self.alpha / self.rank,
            dropout=self.dropout,
            router=router,
            init_std=0.01 if official else None,
        )

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        if not self.num_if:
            return {}
        texts = [self._instruction_texts(sample) for sample in batch.samples]
        embedded = [self.encoder.encode(each).mean(dim=0) for each in texts]
        return {"instruction": torch.stack(embedded).to(batch.prompt_mask.device)}

    def observe(self, batch: Batch) -> None:
        """Fix the reference means still missing; each is in place before the next layer's is taken."""
        pending = [] if self._centred else [bank for bank in self.banks.values() if _lacks_center(bank)]
        if not pending:
            self._centred = True
            return
        if not len(batch.image_rows):
            # The projector does not run here, but the other ranks' sums wait for this one's, in this order.
            for bank in pending:
                if bank.kind != DECODER and isinstance(bank.router, DualRouter):
                    _set_center(bank.router, batch.prompt_mask.new_zeros(0, bank.in_features).float())
        handles = [bank.register_forward_pre_hook(_fix_center) for bank in pending]
        try:
            with routing(self.context(batch)):
                self.backbone.forward_hidden(batch)
        finally:
            for handle in handles:
                handle.remove()

    def set_tasks(self, tasks: tuple[Task, ...]) -> None:
        self._instructions = {task.name: task.instructions for task in tasks}

    def _instruction_texts(self, sample: Sample) -> tuple[str, ...]:
        if self.preset == "official" and self._instructions.get(sample.task):
            return self._instructions[sample.task]
        return (sample.instruction or sample.user_text,)


def _generator(router_seed: int, name: str) -> torch.Generator:
    """The source of a bank's routing matrices."""
    return torch.Generator().manual_seed(mix("router", router_seed, name))


def _lacks_center(bank: LoRABank) -> bool:
    router = bank.router
    assert isinstance(router, DualRouter)
    return router.has_center and not bool(router.vu_center.any())


def _fix_center(bank: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    assert isinstance(bank, LoRABank)
    assert isinstance(bank.router, DualRouter)
    x, context = arguments[0], current()
    rows = x.unsqueeze(1) if x.dim() == 2 else x
    means = bank.router.instance_mean(rows, kind=bank.kind, context=context)
    # A sample without an image has no row in the projector, and no mean there.
    seen = context.rows(bank.kind, rows.shape[0])
    _set_center(bank.router, means if seen is None else means[seen.unique()])


def _set_center(router: DualRouter, means: Tensor) -> None:
    """Fix the mean over all ranks of (samples, d) instance means; a rank without samples has (0, d)."""
    total, count = summed(means.sum(dim=0)), summed(means.new_tensor([float(len(means))]))
    if count > 0:
        router.set_center(total / count)
