"""MoELoRA: LoRA blocks as experts, mixed at every token by a router of the layer, all trained on every task.

Source: the baseline of CoIN (Chen et al., arXiv 2403.08350; code: zackschen/CoIN,
CoIN/peft/tuners/coinmoelora.py), which SMoLoRA, HiDe-LLaVA, ProgLoRA and LCIA compare with:

    y = W0 x + s sum_i softmax(R x)_i B_i A_i x,   E experts of rank r / E, s = alpha / r.

There is no loss that balances the experts, and nothing grows with the tasks.

Readings and deviations:

* ProgLoRA writes the router's input as the first token; the code routes every token by itself, which is the
  default. `router: first_token` is the other reading. In a causal decoder that token has seen no
  other, so samples that begin with the same one share a gate; in the projector it is an image's first patch.
* The code draws a dropout mask for each expert; here the experts share their input's.
* The code draws A from N(0, 0.01^2), which at width 4096 is the spread of LoRA's own draw, taken here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cvit.adapters import DECODER, BankView, LoRABank, Router, RoutingContext, Target
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.utils.settings import AtLeastOne

RouterInput = Literal["token", "first_token"]


class SoftmaxRouter(Router):
    """A dense gate: softmax(R x) over the blocks of a bank, at every position or of the first one.

    Args:
        in_features: Input width of the layer.
        num_blocks: Blocks of the bank.
        routes: `token`, or `first_token`; while decoding, a sequence keeps the gate of its prompt.
    """

    def __init__(self, in_features: int, num_blocks: int, routes: RouterInput) -> None:
        super().__init__()
        self.routes = routes
        self.R = nn.Parameter(torch.zeros(num_blocks, in_features))

    @property
    def matrix(self) -> Tensor | None:
        return self.R if self.routes == "token" else None

    def draw(self, generator: torch.Generator) -> None:
        """Draw R as a linear layer's weight, from a generator on the CPU."""
        bound = self.R.shape[1] ** -0.5
        drawn = torch.empty(self.R.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.R.copy_(drawn)

    def forward(self, x: Tensor, z: Tensor, bank: BankView, context: RoutingContext) -> Tensor:
        """See `Router.forward`.

        Raises:
            ValueError: for the first token the context lacks a prompt mask, or a decode step its prefill.
        """
        if bank.read is not None:
            return _softmax(bank.read)
        return self._first_gate(x, bank, context).unsqueeze(1).expand(*z.shape[:-1], -1)

    def _first_gate(self, x: Tensor, bank: BankView, context: RoutingContext) -> Tensor:
        """(rows, blocks) by the first position of each row that is not padding."""
        if bank.kind != DECODER:
            return self._gate_of(x[:, 0])
        held = context.held_gate(bank.name, x.shape[1])
        if held is not None:
            return held
        first = context.decoder_prompt_mask().int().argmax(1)
        gate = self._gate_of(x[torch.arange(len(x), device=x.device), first])
        context.memo[bank.name] = gate.detach()
        return gate

    def _gate_of(self, x: Tensor) -> Tensor:
        typed = x if torch.is_autocast_enabled(x.device.type) else x.to(self.R.dtype)
        return _softmax(F.linear(typed, self.R))


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class MoELoRA(ContinualMethod):
    """Experts of rank `rank` / `num_experts` in every adapted layer, mixed densely; one set for all tasks.

    Args:
        backbone: The pre-trained model.
        num_experts: Blocks of a layer: 8 in CoIN's table, 2 in LCIA's, as many as tasks in HiDe-LLaVA's.
        router: What a layer's router reads: every `token` for itself, or the sequence's `first_token`.
        kwargs: Settings of every method; `rank` is the total over all experts.

    Raises:
        ValueError: the experts do not divide the rank.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_experts: AtLeastOne = 8,
        router: RouterInput = "token",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if self.rank % num_experts:
            raise ValueError(
                f"model.rank must be a multiple of model.num_experts {num_experts}; got {self.rank}"
            )
        self.num_experts, self.router = num_experts, router

    def plan_stage(self, stage: Stage) -> Plan:
        ranks = [self.rank // self.num_experts] * self.num_experts
        return {"new_blocks": ranks if self.is_new else [], "new_projector": self.is_new}

    def apply_plan(self, plan: Plan) -> None:
        for name, bank in self.banks.items() if plan["new_blocks"] else ():
            assert isinstance(bank.router, SoftmaxRouter)
            bank.router.draw(torch.Generator().manual_seed(mix("router", plan["seed"], name)))

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        bank = super().make_bank(name, target, base)
        bank.router = SoftmaxRouter(base.in_features, self.num_experts, self.router)
        return bank
