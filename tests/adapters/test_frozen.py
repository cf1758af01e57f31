"""FrozenCopy: a pass on what was, in the middle of training what is."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from lit_cvit.adapters import FrozenCopy, LoRABank


def bank(dropout: float = 0.0) -> LoRABank:
    made = LoRABank(
        nn.Linear(4, 3).requires_grad_(False), "decoder.0.x", default_gate="ones", dropout=dropout
    )
    made.add_block(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.block(0).B.normal_(generator=torch.Generator().manual_seed(1))
    return made


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_pass_in_place_gives_what_the_model_gave_and_the_model_goes_on(autocast: bool) -> None:
    """Autocast remembers what it converted, which must not be what trains."""
    model, x = bank(), torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before = model(x).detach()
    copied = FrozenCopy(model)
    moved(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        now = model(x)
        with torch.no_grad(), copied.in_place():
            assert torch.equal(model(x), before)
        assert torch.equal(model(x), now)
    assert not torch.equal(now, before)


def test_gradients_of_a_pass_before_reach_what_trains() -> None:
    model, x = bank(), torch.ones(1, 1, 4)
    copied = FrozenCopy(model)
    moved(model)
    model(x).sum().backward()
    alone = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    loss = model(x).sum()
    with torch.no_grad(), copied.in_place():
        model(x)
    loss.backward()
    got = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(got) == 2
    assert all(torch.equal(one, other) for one, other in zip(got, alone, strict=True))


def test_what_trains_is_back_after_an_error_and_drops_again() -> None:
    model = bank(dropout=0.5).train()
    copied, live = FrozenCopy(model), dict(model.named_parameters())
    x = torch.ones(1, 1, 4)
    with contextlib.suppress(KeyError), copied.in_place():
        assert torch.equal(model(x), model(x))
        assert not model.dropout.training
        raise KeyError
    assert model.dropout.training
    assert {name: id(p) for name, p in model.named_parameters()} == {n: id(p) for n, p in live.items()}
    assert [p.requires_grad for p in model.block(0).parameters()] == [True, True]
