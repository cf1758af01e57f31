"""LoRABank: the blocks attached to one linear layer, which runs exactly once and is never changed.

y = W0 x + s * B_cat (gate (x) (A_cat x)), see `kernels`. The base layer may be any `nn.Linear`, also one of
bitsandbytes' 4-bit or 8-bit layers (they are nn.Linear too): it is called, never subclassed and never read,
except while `MergedBanks` holds the blocks in its weight.
Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cvit.adapters.kernels import gate_to_rows, weigh_blocks
from lit_cvit.adapters.products import add_up, project_down, side_by_side
from lit_cvit.adapters.routing import DECODER, BankView, Router, RoutingContext, active, current


class LoRABlock(nn.Module):
    """One LoRA pair: A (rank, in) and B (out, rank). Parameters while it trains, buffers when frozen."""

    A: Tensor
    B: Tensor
    # Names of its tensors.
    parts: ClassVar[tuple[str, ...]] = ("A", "B")

    def __init__(self, *tensors: Tensor, trainable: bool = True) -> None:
        super().__init__()
        for name, tensor in zip(self.parts, tensors, strict=True):
            self.register_buffer(name, tensor)
        if trainable:
            self.unfreeze()

    @property
    def rank(self) -> int:
        """Rank r of the pair."""
        return self.A.shape[0]

    @property
    def trainable(self) -> bool:
        """Whether A and B are Parameters."""
        return isinstance(self.A, nn.Parameter)

    def freeze(self) -> None:
        """Turn A and B into buffers with the same values."""
        for name in self.parts if self.trainable else ():
            value = self._parameters.pop(name)
            assert value is not None
            # A copy: an optimizer that still holds the Parameter must not reach the frozen values.
            self.register_buffer(name, value.detach().clone())

    def unfreeze(self) -> None:
        """Turn A and B into Parameters with the same values."""
        for name in () if self.trainable else self.parts:
            value = self._buffers.pop(name)
            assert value is not None
            self.register_parameter(name, nn.Parameter(value.detach().clone()))


class LoRABank(nn.Module):
    """A linear layer with its blocks and, if the layer's own input decides, their router."""

    def __init__(
        self,
        base: nn.Linear,
        name: str,
        *,
        kind: str = DECODER,
        scaling: float = 1.0,
        dropout: float = 0.0,
        router: Router | None = None,
        default_gate: Literal["required", "ones"] = "required",
        init_std: float | None = None,
    ) -> None:
        """Wrap `base`; blocks are added with `add_block`.

        Args:
            base: The layer; whether its own weights train is not decided here.
            name: Canonical name, for example "decoder.0.mlp.gate_proj" or "projector.linear_1".
            kind: Kind of module, the key of the context's row maps.
            scaling: The factor s, usually alpha / rank.
            dropout: Probability of dropping an element of the blocks' common input.
            router: Computes the gate from the layer's input; without one the gate comes from the context.
            default_gate: What holds where neither gives a gate: an error (`required`), or all `ones`; a bank
                with `ones` and no router also runs outside of a routing context.
            init_std: New blocks draw A from N(0, init_std^2), with 0.01 in the official SMoLoRA and HiDe
                code; None draws it as PEFT does (uniform, Kaiming's with a = sqrt(5)).

        Raises:
            ValueError: `default_gate` is unknown, or `init_std` is not positive.
        """
        super().__init__()
        if default_gate not in ("required", "ones"):
            raise ValueError(f"default_gate must be one of required, ones; got {default_gate!r}")
        if init_std is not None and init_std <= 0:
            raise ValueError(f"init_std must be positive or None, got {init_std}")
        self.base = base
        self.init_std = init_std
        self.name, self.kind, self.scaling, self.default_gate = name, kind, scaling, default_gate
        self.dropout = nn.Dropout(dropout)
        self.router = router
        self.blocks = nn.ModuleList()
        # While the bank is held: which blocks, None for all, and their A_cat and B_cat.
        self._joined: tuple[range | None, Tensor, Tensor] | None = None
        # Set by `MergedBanks` while the base layer's weight holds what the blocks add.
        self.merged = False

    @property
    def in_features(self) -> int:
        """Input width of the layer."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Output width of the layer."""
        return self.base.out_features

    @property
    def weight(self) -> Tensor:
        """The base layer's weight; some models read its dtype (T5 does)."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base.bias

    @property
    def may_rest(self) -> bool:
        """Whether a step may leave the whole bank unused; layers of the decoder run for every sample."""
        return self.kind != DECODER

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each block."""
        return tuple(block.rank for block in self.lora_blocks())

    def block(self, index: int) -> LoRABlock:
        """One block; negative indices count from the last."""
        block = self.blocks[index]
        assert isinstance(block, LoRABlock)
        return block

    def lora_blocks(self) -> list[LoRABlock]:
        """The blocks, in order."""
        return [block for block in self.blocks if isinstance(block, LoRABlock)]

    def add_block(
        self,
        rank: int,
        generator: torch.Generator,
        *,
        trainable: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> int:
        """Append a block with random A and B = 0, which changes no output yet.

        Args:
            rank: Rank r >= 1.
            generator: Source of A, on the CPU, so that the draw does not depend on the device.
            trainable: False adds the block frozen.
            dtype: Type of A and B.

        Returns:
            The index of the block.

        Raises:
            ValueError: `rank` is out of range.
        """
        if rank < 1:
            raise ValueError(f"the rank of a block must be >= 1, got {rank} for bank {self.name!r}")
        down = torch.empty(rank, self.in_features)
        if down.is_meta:
            pass  # A plan of sizes: there is nothing to draw, and asking for it took half of the plan's time.
        elif self.init_std is None:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        else:
            nn.init.normal_(down, std=self.init_std, generator=generator)
        up = torch.zeros(self.out_features, rank)
        device = self.base.weight.device
        self.place(self.make_block(down.to(device, dtype), up.to(device, dtype), trainable=trainable))
        return self.num_blocks - 1

    def place(self, block: LoRABlock) -> None:
        """Put a new block behind the others; a bank that keeps fewer overrides this."""
        self.blocks.append(block)

    def make_block(self, down: Tensor, up: Tensor, *, trainable: bool) -> LoRABlock:
        """The block of A (rank, in) and B (out, rank); a bank whose blocks hold more overrides this."""
        return LoRABlock(down, up, trainable=trainable)

    def freeze_block(self, index: int) -> None:
        """Turn a block into buffers; its values stay bit-identical."""
        self.block(index).freeze()

    def unfreeze_block(self, index: int) -> None:
        """Turn a frozen block into Parameters again; build the optimizer after it."""
        self.block(index).unfreeze()

    def down(self) -> Tensor:
        """A_cat (R, in): the blocks' down-projections joined along the rank."""
        return self._side_by_side(range(self.num_blocks))[0]

    def up(self) -> Tensor:
        """B_cat (out, R): the blocks' up-projections joined along the rank."""
        return self._side_by_side(range(self.num_blocks))[1]

    def hold(self) -> None:
        """Join the blocks in use until `release`: what is computed from them alone is computed once."""
        if self.num_blocks:
            used = self._used()
            self._joined = used, *self._side_by_side(range(self.num_blocks) if used is None else used)

    def release(self) -> None:
        """End `hold`."""
        self._joined = None

    def _side_by_side(self, chosen: range) -> tuple[Tensor, Tensor]:
        """A_cat (R, in) and B_cat (out, R) of some blocks; those of a single one are no copy."""
        blocks = [self.block(number) for number in chosen]
        return (
            side_by_side([block.A.detach() for block in blocks], dim=0),
            side_by_side([block.B.detach() for block in blocks], dim=1),
        )

    @property
    def merges(self) -> bool:
        """Whether the blocks can be added into the base layer's weight, given one gate for all samples.

        They cannot where the layer's input decides, or the weight is packed in 4 or 8 bits or held in shards.
        """
        plain = type(self.base) is nn.Linear and type(self.base.weight) is nn.Parameter
        return self.num_blocks > 0 and self.router is None and plain

    def merged_change(self, gate: Tensor) -> Tensor:
        """What the bank adds to the base layer's weight under one gate; of a bank that `merges`.

        Args:
            gate: (blocks,).

        Returns:
            (out, in), in the type of the blocks.
        """
        # The identity goes through the mixture, so that a bank with a rule of its own needs no second one.
        z = self.down().T.unsqueeze(0)
        weighted = self.mix(z, gate, self.ranks).squeeze(0)
        return self.up() @ (self.scaling * weighted.T)

    def forward(self, x: Tensor) -> Tensor:
        """Run the base layer once and add the gated blocks.

        Args:
            x: (rows, positions, in), or (rows, in) where the rows are flattened patches.

        Returns:
            The output, shaped as the base layer's and of its dtype.

        Raises:
            RuntimeError: the bank needs a routing context and none is active, or the base layer is to run
                alone while the bank is merged.
            ValueError: no gate is given, or it does not fit the bank.
        """
        y = self.base(x)
        context = active()
        bypass = context is not None and context.bypass
        if self.merged and bypass:
            raise RuntimeError(f"bank {self.name!r} is merged into its layer, which cannot be run alone now")
        if not self.num_blocks or self.merged or bypass:
            return y
        # The sum is formed in the wider type and rounded once.
        return self.combined(y, x).to(y.dtype)

    def combined(self, y: Tensor, x: Tensor) -> Tensor:
        """The base layer's output y with what the blocks add; a bank of another rule overrides this."""
        rows = x.unsqueeze(1) if x.dim() == 2 else x
        used = self._used()
        downs, ups, ranks = self._tensors(used)
        # Outside of autocast the blocks compute in their own type, also on a 16-bit base.
        typed = rows if torch.is_autocast_enabled(x.device.type) else rows.to(downs[0].dtype)
        z, read = self._project(typed, downs)
        gate = self._gate(rows, z, BankView(self.name, self.kind, self.scaling, ranks, ups, read))
        weighted = self.mix(
            z, gate if gate is None or used is None else gate[..., used.start : used.stop], ranks
        )
        return add_up(y, weighted.squeeze(1) if x.dim() == 2 else weighted, ups, scaling=self.scaling)

    def _project(self, x: Tensor, downs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """A_cat x, and the product of x with the matrix that the router asks for."""
        matrix = None if self.router is None else self.router.matrix
        if matrix is None:
            return project_down(self.dropout(x), downs), None
        drops = self.training and self.dropout.p > 0
        if drops or matrix.dtype != downs[0].dtype or not torch.is_grad_enabled():
            typed = x if torch.is_autocast_enabled(x.device.type) else x.to(matrix.dtype)
            return project_down(self.dropout(x), downs), F.linear(typed, matrix)
        # In one product, so that the gradient of x, as large as x, is formed and added once.
        z, read = project_down(x, (*downs, matrix)).tensor_split([-len(matrix)], dim=-1)
        return z, read

    def _used(self) -> range | None:
        """The blocks that the active context's gate leaves; None for all."""
        context = active()
        own = self.router is not None or context is None or self.name in context.gates
        return None if own or context is None else context.used

    def _tensors(self, used: range | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[int, ...]]:
        """A_i and B_i of some blocks, and their ranks; joined ones while the bank holds them."""
        ranks = self.ranks
        chosen = range(len(ranks)) if used is None else used
        if self._joined is not None and self._joined[0] == used:
            return self._joined[1:2], self._joined[2:], ranks[chosen.start : chosen.stop]
        blocks = [self.block(number) for number in chosen]
        downs, ups = tuple(block.A for block in blocks), tuple(block.B for block in blocks)
        return downs, ups, ranks[chosen.start : chosen.stop]

    def mix(self, z: Tensor, gate: Tensor | None, ranks: tuple[int, ...]) -> Tensor:
        """Mix blocks in rank space; a bank of another rule overrides this.

        Args:
            z: (rows, positions, R), the joined down-projections of the blocks.
            gate: Broadcasts over (rows, positions, blocks); None means all ones.
            ranks: Rank of each of the blocks.

        Returns:
            (rows, positions, R), which the joined up-projections take.
        """
        return weigh_blocks(z, gate, ranks=ranks)

    def _gate(self, x: Tensor, z: Tensor, view: BankView) -> Tensor | None:
        if self.router is None and self.default_gate == "ones":
            context = active()
            if context is None or context.gate_for(self.name) is None:
                return None
        context = current()
        gate = self._context_gate(x, context) if self.router is None else self.router(x, z, view, context)
        if context.trace is not None:
            context.trace[self.name] = gate.detach()
        return gate

    def _context_gate(self, x: Tensor, context: RoutingContext) -> Tensor:
        gate = context.gate_for(self.name)
        if gate is None:
            raise ValueError(
                f"the routing context has no gate for bank {self.name!r}; set `gate` or "
                f"`gates[{self.name!r}]`, or build the bank with default_gate='ones'"
            )
        shapes = {
            1: (self.num_blocks,),
            2: (context.num_samples, self.num_blocks),
            3: (x.shape[0], x.shape[1], self.num_blocks),
        }
        expected = shapes.get(gate.dim())
        if tuple(gate.shape) != expected:
            raise ValueError(
                f"the gate of bank {self.name!r} has shape {tuple(gate.shape)}; allowed are "
                f"{', '.join(str(shape) for shape in shapes.values())}"
            )
        rows = context.rows(self.kind, x.shape[0]) if gate.dim() == 2 else None
        return gate_to_rows(gate, rows)


@contextlib.contextmanager
def joined(banks: Iterable[LoRABank]) -> Iterator[None]:
    """Join the blocks of each bank once for the whole `with` block, for generation token by token.

    Gradients do not flow to the blocks inside, and changes of their values are not seen until it ends.
    """
    held = list(banks)
    try:
        for bank in held:
            bank.hold()
        yield
    finally:
        for bank in held:
            bank.release()
