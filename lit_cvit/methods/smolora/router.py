"""SMoLoRA's router: separate routing for visual understanding and instruction following, then fusion.

Source: arXiv 2411.13949, Eq. 4-9. The bank's first `num_vu` blocks form the visual-understanding (VU) branch,
routed by the instance mean of the layer's own input; the next `num_if` blocks form the instruction-following
(IF) branch, routed by the embedding of the instruction.

Where the official code (PEFT_SMoLoRA/peft/tuners/smolora.py) differs, the paper's intention is the default
and the code's behaviour an option: `statistics="all"` averages over padding and answers too (:425), and
`decode="reroute"` chooses the VU blocks anew from each generated token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters.kernels import (
    adaptive_fusion,
    expand_gate,
    fusion_directions,
    sample_means,
    top_k_gate,
)
from lit_cvit.adapters.products import side_by_side
from lit_cvit.adapters.routing import DECODER, BankView, Router, RoutingContext


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    bound = shape[-1] ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


class DualRouter(Router):
    """Gates of a SMoLoRA bank.

    With `top_k=1` a kept gate is the constant 1, so the routing matrices can learn nothing: they are fixed
    random projections, held as buffers. With `top_k >= 2` they are Parameters and train.
    """

    R_vu: Tensor
    R_if: Tensor
    vu_center: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_vu: int,
        num_if: int,
        instruction_size: int,
        generator: torch.Generator,
        top_k: int = 1,
        fusion: Literal["adaptive", "mean"] = "adaptive",
        statistics: Literal["prompt", "all"] = "prompt",
        decode: Literal["hold", "reroute"] = "hold",
        vu_center: bool = False,
    ) -> None:
        """Draw the routing matrices and fusion vectors from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

        Args:
            in_features: Input width of the layer.
            out_features: Output width of the layer.
            num_vu: Blocks of the VU branch; 0 leaves the branch out, the other then has weight 1.
            num_if: Blocks of the IF branch; 0 leaves the branch out.
            instruction_size: Width e of the context's fact "instruction" (S, e).
            generator: Source of the draws, on the CPU; the routing is decided by it.
            top_k: Blocks kept in each branch, at most as many as it has.
            fusion: `adaptive` weighs the branches per position (Eq. 8-9); `mean` gives 0.5 to each.
            statistics: Instance mean over the `prompt` positions, or over `all` the layer is given.
            decode: `hold` keeps the prefill's VU choice while decoding; `reroute` chooses at every step.
            vu_center: Keep a reference mean that is subtracted from instance means; see `set_center`.
        """
        super().__init__()
        self.num_vu, self.num_if, self.top_k = num_vu, num_if, top_k
        self.fusion, self.statistics, self.decode = fusion, statistics, decode
        if num_vu:
            self._add_matrix("R_vu", torch.empty(num_vu, in_features))
        if num_if:
            self._add_matrix("R_if", torch.empty(num_if, instruction_size))
        if num_vu and num_if and fusion == "adaptive":
            self.I_vu = nn.Parameter(torch.empty(out_features))
            self.I_if = nn.Parameter(torch.empty(out_features))
        self.draw(generator)
        self.has_center = vu_center and num_vu > 0
        if self.has_center:
            self.register_buffer("vu_center", torch.zeros(in_features))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw the routing matrices and fusion vectors anew, from a generator on the CPU."""
        drawn = [self.R_vu] if self.num_vu else []
        drawn += [self.R_if] if self.num_if else []
        drawn += [self.I_vu, self.I_if] if self.branches else []
        for tensor in drawn:
            tensor.copy_(_uniform(*tensor.shape, generator=generator))

    def _add_matrix(self, name: str, value: Tensor) -> None:
        if self.top_k == 1:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @property
    def num_blocks(self) -> int:
        """Blocks that the bank must have: VU first, then IF."""
        return self.num_vu + self.num_if

    @property
    def branches(self) -> tuple[int, int] | None:
        """Blocks of the VU and of the IF branch where alpha and beta fuse them (Eq. 8-9), else None."""
        fused = self.num_vu and self.num_if and self.fusion == "adaptive"
        return (self.num_vu, self.num_if) if fused else None

    @torch.no_grad()
    def set_center(self, mean: Tensor) -> None:
        """Fix the reference mean (in,) that is subtracted from every instance mean; can be done once.

        Raises:
            ValueError: the router was built without `vu_center`, or the centre is already set.
        """
        if not self.has_center:
            raise ValueError("this router was built with vu_center=False and has no centre to set")
        if bool(self.vu_center.any()):
            raise ValueError("vu_center is already set; changing it would re-route what was learned")
        self.vu_center.copy_(mean)

    def instance_mean(self, x: Tensor, *, kind: str, context: RoutingContext) -> Tensor:
        """Mean of the layer's input over each sample, before centring.

        Args:
            x: (rows, positions, in).
            kind: Kind of module; the prompt mask speaks of the decoder's positions only.
            context: The active routing context.

        Returns:
            (S, in) in float32.
        """
        rows = context.rows(kind, x.shape[0])
        masked = self.statistics == "prompt" and kind == DECODER and not context.is_decode_step(x.shape[1])
        mask = context.decoder_prompt_mask() if masked else None
        return sample_means(x, mask, row_to_sample=rows, num_samples=context.num_samples)

    def forward(self, x: Tensor, z: Tensor, bank: BankView, context: RoutingContext) -> Tensor:
        """See `Router.forward`.

        Raises:
            ValueError: the bank has another number of blocks, or the context lacks a fact, mask or row map.
        """
        if len(bank.ranks) != self.num_blocks:
            raise ValueError(
                f"bank {bank.name!r} has {len(bank.ranks)} blocks, its router routes "
                f"{self.num_vu} + {self.num_if}"
            )
        gate = self._instance_gate(x, bank, context)
        rows = context.rows(bank.kind, x.shape[0])
        gate = (gate if rows is None else gate.index_select(0, rows)).unsqueeze(1)
        if self.num_vu and self.num_if:
            gate = self._fuse(z, gate, bank)
        return gate.expand(*z.shape[:-1], -1)

    def _instance_gate(self, x: Tensor, bank: BankView, context: RoutingContext) -> Tensor:
        # The instruction does not change while decoding, so only the VU branch has anything to hold.
        holds = self.decode == "hold" and bank.kind == DECODER and self.num_vu > 0
        held = context.held_gate(bank.name, x.shape[1]) if holds else None
        if held is not None:
            return held
        # Routing is decided in full precision, so that training under autocast and testing without agree.
        with torch.autocast(x.device.type, enabled=False), torch.set_grad_enabled(self._learns()):
            gate = torch.cat(self._branch_gates(x, bank, context), dim=-1)
        if holds:
            context.memo[bank.name] = gate.detach()
        return gate

    def _learns(self) -> bool:
        return self.top_k > 1 and torch.is_grad_enabled()

    def _branch_gates(self, x: Tensor, bank: BankView, context: RoutingContext) -> list[Tensor]:
        gates = []
        if self.num_vu:
            mean = self.instance_mean(x, kind=bank.kind, context=context)
            mean = mean - self.vu_center if self.has_center else mean
            gates.append(top_k_gate(mean.to(self.R_vu.dtype) @ self.R_vu.T, self.top_k))
        if self.num_if:
            instruction = context.fact("instruction").to(self.R_if.dtype)
            gates.append(top_k_gate(instruction @ self.R_if.T, self.top_k))
        return gates

    def _fuse(self, z: Tensor, gate: Tensor, bank: BankView) -> Tensor:
        if self.fusion == "mean":
            return 0.5 * gate
        directions = fusion_directions(
            torch.stack([self.I_vu, self.I_if]),
            side_by_side(bank.ups, dim=1),
            expand_gate(gate, bank.ranks).squeeze(1),
            num_first=sum(bank.ranks[: self.num_vu]),
            scaling=bank.scaling,
        )
        return expand_gate(adaptive_fusion(z, directions), (self.num_vu, self.num_if)) * gate
