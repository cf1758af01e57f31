"""What the adapted layers of one forward pass need to know: the routing context.

The method computes per-sample facts once per batch; all banks read them. The context is held in a ContextVar
and captured for activation checkpointing, because two forward passes in one step (replay, distillation) have
two contexts, and backward must recompute each under its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from torch import Tensor, nn

DECODER = "decoder"


@dataclass
class RoutingContext:
    """Facts about the batch of one forward pass. S samples, L positions.

    Attributes:
        num_samples: S.
        facts: Per-sample facts by name, first dimension S; for example "instruction" (S, e).
        gate: Gate for every bank without one of its own: (blocks,), (S, blocks) or (rows, positions, blocks).
        gates: Gates by bank name; they come before `gate`.
        prompt_mask: (S, L) True at prompt tokens, neither answer nor padding.
        row_to_sample: Per kind of module, the (rows,) sample index of each row it sees. In the decoder rows
            are the samples unless an entry says otherwise (beam search); other kinds that run need one.
        memo: Instance gates by bank name, first dimension S, kept from the prefill for the decode steps.
        used: Blocks that any sample gives another gate than 0 in `gate`, as a range; None where that is not
            known without waiting for the device. The others are left out of all products.
        bypass: True runs the base layers alone, as if no bank were there.
        trace: A dict here receives the gate that each bank used, by bank name (detached).
    """

    num_samples: int
    facts: dict[str, Tensor] = field(default_factory=dict)
    gate: Tensor | None = None
    gates: dict[str, Tensor] = field(default_factory=dict)
    prompt_mask: Tensor | None = None
    row_to_sample: dict[str, Tensor] = field(default_factory=dict)
    memo: dict[str, Tensor] = field(default_factory=dict)
    used: range | None = None
    bypass: bool = False
    trace: dict[str, Tensor] | None = None

    def fact(self, name: str) -> Tensor:
        """The per-sample fact `name`.

        Raises:
            ValueError: the method supplied no such fact; lists the ones it did.
        """
        if name not in self.facts:
            known = ", ".join(sorted(self.facts)) or "none"
            raise ValueError(f"the routing context has no fact {name!r}; it has: {known}")
        return self.facts[name]

    def gate_for(self, bank: str) -> Tensor | None:
        """The gate of one bank: its own, else the shared one, else None."""
        return self.gates.get(bank, self.gate)

    def select_samples(self, samples: Tensor) -> None:
        """Narrow the context to some samples, for the decode steps after the others' answers have ended.

        The maps of other kinds of modules than the decoder's go: those modules run at the prefill alone.

        Args:
            samples: (S',) numbers of the samples that stay, on the device of gates and masks.

        Raises:
            ValueError: the rows of the decoder are not the samples (beam search).
        """
        if DECODER in self.row_to_sample:
            raise ValueError("a routing context whose decoder has a row map cannot be narrowed to samples")
        self.num_samples = len(samples)
        self.facts = {
            name: fact.index_select(0, samples.to(fact.device)) for name, fact in self.facts.items()
        }
        self.memo = {name: gate.index_select(0, samples) for name, gate in self.memo.items()}
        self.gates = {name: _of_samples(gate, samples) for name, gate in self.gates.items()}
        if self.gate is not None:
            self.gate = _of_samples(self.gate, samples)
        if self.prompt_mask is not None:
            self.prompt_mask = self.prompt_mask.index_select(0, samples)
        self.row_to_sample = {}

    def rows(self, kind: str, num_rows: int) -> Tensor | None:
        """The (rows,) sample index of each row that a module of `kind` sees; None where rows are the samples.

        Raises:
            ValueError: the kind has no map, or the map has another number of rows.
        """
        rows = self.row_to_sample.get(kind)
        if rows is None and kind != DECODER:
            known = ", ".join(sorted(self.row_to_sample)) or "none"
            raise ValueError(
                f"the routing context has no row_to_sample map for kind {kind!r} (it has: {known}), "
                "but a module of that kind was run"
            )
        expected = self.num_samples if rows is None else rows.shape[0]
        if expected != num_rows:
            raise ValueError(
                f"a module of kind {kind!r} got {num_rows} rows, but the routing context has {expected} "
                f"({self.num_samples} samples)"
            )
        return rows

    def decoder_prompt_mask(self) -> Tensor:
        """The prompt mask, one line for each row of the decoder: (rows, L).

        Raises:
            ValueError: the context has no prompt mask.
        """
        if self.prompt_mask is None:
            raise ValueError("the routing context has no prompt_mask, which instance routing needs")
        rows = self.row_to_sample.get(DECODER)
        return self.prompt_mask if rows is None else self.prompt_mask.index_select(0, rows)

    def is_decode_step(self, num_positions: int) -> bool:
        """Whether a decoder input of so many positions continues a sequence instead of holding all of it.

        The number of positions distinguishes a decode step from a prefill, so a prompt of a single position
        counts as a prefill at every step.

        Raises:
            ValueError: the context has no prompt mask to compare with.
        """
        if self.prompt_mask is None:
            raise ValueError(
                "the routing context has no prompt_mask, so prefill and decode cannot be distinguished"
            )
        return num_positions != self.prompt_mask.shape[1]

    def held_gate(self, bank: str, num_positions: int) -> Tensor | None:
        """The gate that a bank of the decoder left in `memo` at the prefill; None in the prefill itself.

        Raises:
            ValueError: a decode step has no prefill in this context.
        """
        if not self.is_decode_step(num_positions):
            return None
        if bank not in self.memo:
            raise ValueError(
                f"bank {bank!r} got {num_positions} positions, but the prompt mask has another number "
                "and there was no prefill in this routing context whose gate could be held"
            )
        return self.memo[bank]


def _of_samples(gate: Tensor, samples: Tensor) -> Tensor:
    """A gate (blocks,) for all samples as it is; of another one the rows of some samples."""
    return gate if gate.dim() == 1 else gate.index_select(0, samples)


def used_blocks(gate: Tensor) -> range | None:
    """The blocks from the first to the last that a gate leaves, for `RoutingContext.used`.

    Args:
        gate: (..., blocks).

    Returns:
        At least one block; None where the gate trains, or lies on a device that would have to be waited for.
    """
    if gate.device.type != "cpu" or gate.requires_grad:
        return None
    numbers = (gate != 0).reshape(-1, gate.shape[-1]).any(0).nonzero().flatten().tolist()
    return range(numbers[0], numbers[-1] + 1) if numbers else range(1)


_ACTIVE: ContextVar[RoutingContext | None] = ContextVar("lit_cvit_routing", default=None)


@contextlib.contextmanager
def _activate(context: RoutingContext | None) -> Iterator[None]:
    token = _ACTIVE.set(context)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def routing(context: RoutingContext) -> AbstractContextManager[None]:
    """Make `context` the one that all banks read inside the `with` block; blocks may be nested."""
    return _activate(context)


def active() -> RoutingContext | None:
    """The active context, or None outside of `routing`."""
    return _ACTIVE.get()


def current() -> RoutingContext:
    """The active context.

    Raises:
        RuntimeError: there is none.
    """
    context = _ACTIVE.get()
    if context is None:
        raise RuntimeError(
            "a routed bank was run outside of a routing context; "
            "run the model inside `with routing(context):`"
        )
    return context


def checkpoint_context_fn() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Make checkpointing recompute under the forward's own context; a `context_fn` for use_reentrant=False.

    Autograd may recompute in a thread of its own and after other contexts were active, so the context of the
    forward is captured here, when the checkpointed function is called.
    """
    return contextlib.nullcontext(), _Again(_ACTIVE.get())


class _Again(AbstractContextManager[None]):
    """Activates a context whenever it is entered: each backward pass of a graph that is kept recomputes."""

    def __init__(self, context: RoutingContext | None) -> None:
        self._context = context
        self._tokens: list[Token[RoutingContext | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_ACTIVE.set(self._context))

    def __exit__(self, *_: object) -> None:
        _ACTIVE.reset(self._tokens.pop())


@dataclass(frozen=True)
class BankView:
    """What a router may read of the bank it routes.

    Attributes:
        name: Canonical name of the bank.
        kind: Kind of module, the key of the context's row maps.
        scaling: The factor s of the mixture.
        ranks: Rank of each block.
        ups: (out, r_i) the up-projection of each block, attached to the graph; those of all blocks in one
            tensor while the bank holds them joined.
        read: (rows, positions, k) the product of the layer's input with the router's `matrix`, if it has one.
    """

    name: str
    kind: str
    scaling: float
    ranks: tuple[int, ...]
    ups: tuple[Tensor, ...]
    read: Tensor | None = None


class Router(nn.Module):
    """Base of routers that live in a bank because they need the layer's input."""

    @property
    def matrix(self) -> Tensor | None:
        """(k, in) what the layer's input is multiplied with for the router, beside the blocks' A; or None."""
        return None

    @property
    def branches(self) -> tuple[int, int] | None:
        """Blocks of each of two branches that are fused with weights of their own, or None."""
        return None

    @property
    def held_with_bank(self) -> tuple[nn.Parameter, ...]:
        """Parameters that stay as they are in a step that used no block of the bank.

        They count as used with any block, because their own gradient may be zero all the same (fusion vectors
        get none while B = 0). To be overridden by a router of which a part trains by itself.
        """
        return tuple(parameter for parameter in self.parameters() if parameter.requires_grad)

    def forward(self, x: Tensor, z: Tensor, bank: BankView, context: RoutingContext) -> Tensor:
        """Compute the bank's gate.

        Args:
            x: (rows, positions, in) the layer's input, before dropout; flattened rows have one position.
            z: (rows, positions, R) the joined down-projection A_cat x.
            bank: The bank that is routed.
            context: The active routing context.

        Returns:
            (rows, positions, blocks).
        """
        raise NotImplementedError
