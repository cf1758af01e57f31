from __future__ import annotations

import torch
from torch import nn

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    held_groups,
    hold_unrouted,
    largest_gradients,
    routing,
)


def _bank() -> LoRABank:
    generator = torch.Generator().manual_seed(0)
    bank = LoRABank(nn.Linear(4, 3).requires_grad_(False), "layer")
    for _ in range(2):
        index = bank.add_block(2, generator)
        nn.init.normal_(bank.block(index).B, generator=generator)
    return bank


def _two_steps(*, hold: bool) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Block 0 and 1 in the first step, block 1 alone in the second; block 0 before and after the second."""
    bank, held = _bank(), 0
    optimizer = torch.optim.AdamW(bank.blocks.parameters(), lr=0.1)
    before: list[torch.Tensor] = []
    for gate in (torch.ones(2), torch.tensor([0.0, 1.0])):
        before = [p.detach().clone() for p in bank.blocks.parameters()]
        optimizer.zero_grad()
        with routing(RoutingContext(num_samples=1, gate=gate)):
            bank(torch.ones(1, 2, 4)).square().sum().backward()
        if hold:
            held = hold_unrouted(held_groups([bank]))
        optimizer.step()
    return before, [p.detach() for p in bank.blocks.parameters()], held


def test_held_block_stays_bit_identical_while_the_routed_one_moves() -> None:
    before, after, held = _two_steps(hold=True)
    assert held == 1
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_drift_lets_momentum_and_weight_decay_move_the_unrouted_block() -> None:
    before, after, _ = _two_steps(hold=False)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, False, False]


def test_fresh_block_in_use_is_not_held_although_its_a_has_no_gradient() -> None:
    bank = LoRABank(nn.Linear(4, 3), "layer", default_gate="ones")
    bank.add_block(2, torch.Generator().manual_seed(0))
    bank(torch.ones(1, 2, 4)).sum().backward()
    assert not bank.block(0).A.grad.any()
    assert hold_unrouted(held_groups([bank])) == 0
    assert bank.block(0).A.grad is not None


def test_tiny_gradients_count_as_gradients() -> None:
    # Its square is 0 in float32.
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.0, 1e-30, 0.0])
    assert hold_unrouted([(parameter,)]) == 0
    assert parameter.grad is not None


def test_gradient_that_is_not_finite_is_left_for_others_to_see() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.0, float("nan")])
    assert hold_unrouted([(parameter,)]) == 0


def test_groups_without_any_gradient_are_not_counted() -> None:
    assert hold_unrouted([(nn.Parameter(torch.zeros(2)),)]) == 0


def test_gradients_of_several_types_are_judged_together() -> None:
    parameters = [
        nn.Parameter(torch.zeros(2, dtype=t)) for t in (torch.float32, torch.bfloat16, torch.float32)
    ]
    for parameter, value in zip(parameters, (0.0, 0.0, 1.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    assert hold_unrouted([(p,) for p in parameters]) == 2
    assert [p.grad is None for p in parameters] == [True, True, False]


def test_frozen_blocks_are_no_group() -> None:
    bank = _bank()
    bank.freeze_block(0)
    assert held_groups([bank]) == [tuple(bank.block(1).parameters())]


def test_what_the_host_has_read_already_decides_as_what_is_read_here() -> None:
    gradients = [(0.0, None), (None, None), (2.0, 0.0), (float("nan"),), (0.0,)]
    kept = []
    for read in (False, True):
        groups = [tuple(nn.Parameter(torch.zeros(2)) for _ in group) for group in gradients]
        for group, values in zip(groups, gradients, strict=True):
            for parameter, value in zip(group, values, strict=True):
                parameter.grad = None if value is None else torch.full((2,), value)
        largest = largest_gradients(groups)
        assert largest is not None
        assert hold_unrouted(groups, largest.tolist() if read else None) == 2
        kept.append([[parameter.grad is not None for parameter in group] for group in groups])
    assert kept[0] == kept[1] == [[False, False], [False, False], [True, True], [True], [False]]


def test_gradients_that_were_dropped_in_between_are_held_no_more() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    assert hold_unrouted([(parameter,)], [0.0]) == 0
