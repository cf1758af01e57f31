from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    active,
    checkpoint_context_fn,
    current,
    routing,
)
from lit_cvit.methods.smolora.router import DualRouter

WIDTH, E = 6, 4


def _model() -> nn.Sequential:
    """A bank gated by the context, then one with its own trained router."""
    generator = torch.Generator().manual_seed(1)
    router = DualRouter(
        WIDTH, WIDTH, num_vu=2, num_if=2, instruction_size=E, generator=generator, top_k=2, vu_center=False
    )
    banks = [
        LoRABank(nn.Linear(WIDTH, WIDTH), "gated"),
        LoRABank(nn.Linear(WIDTH, WIDTH), "routed", router=router),
    ]
    for bank in banks:
        for _ in range(4):
            index = bank.add_block(2, generator)
            nn.init.normal_(bank.block(index).B, generator=generator)
    return nn.Sequential(*banks)


def _context(seed: int) -> RoutingContext:
    generator = torch.Generator().manual_seed(seed)
    return RoutingContext(
        num_samples=2,
        facts={"instruction": torch.randn(2, E, generator=generator)},
        gate=torch.rand(2, 4, generator=generator),
        prompt_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def _gradients(model: nn.Module, x: torch.Tensor, **kwargs: Any) -> list[torch.Tensor]:
    """Two forwards under two contexts, one backward after both, as in replay or distillation."""
    loss = torch.zeros(())
    for seed in (1, 2):
        with routing(_context(seed)):
            y = checkpoint(model, x, use_reentrant=False, **kwargs) if kwargs else model(x)
        loss = loss + y.square().sum() * seed
    parameters = list(model.parameters())
    return list(torch.autograd.grad(loss, parameters))


def test_two_contexts_in_a_step_recompute_each_under_its_own() -> None:
    model = _model()
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    for got, want in zip(
        _gradients(model, x, context_fn=checkpoint_context_fn), _gradients(model, x), strict=True
    ):
        assert torch.equal(got, want)


def test_checkpointing_without_the_context_fn_fails_loudly() -> None:
    model = _model()
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    with pytest.raises(RuntimeError, match="outside of a routing context"):
        _gradients(model, x, preserve_rng_state=False)


def test_recomputation_inside_another_context_still_uses_its_own() -> None:
    model = _model()
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    results = []
    for kwargs in ({"context_fn": checkpoint_context_fn, "use_reentrant": False}, None):
        with routing(_context(1)):
            y = model(x) if kwargs is None else checkpoint(model, x, **kwargs)
        with routing(_context(2)):
            results.append(torch.autograd.grad(y.square().sum(), list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_graph_that_is_kept_recomputes_for_every_backward_pass() -> None:
    """As where two terms of a step share a forward pass and the gradient of each is asked for."""
    model = _model()
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    with routing(_context(1)):
        y = checkpoint(model, x, use_reentrant=False, context_fn=checkpoint_context_fn)
    loss, parameters = y.square().sum(), list(model.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert active() is None


def test_contexts_nest_and_are_restored_even_after_an_error() -> None:
    outer, inner = _context(1), _context(2)
    with routing(outer):
        with routing(inner):
            assert current() is inner
        with pytest.raises(ZeroDivisionError), routing(inner):
            _ = 1 / 0
        assert current() is outer
    assert active() is None
    with pytest.raises(RuntimeError, match="with routing"):
        current()
