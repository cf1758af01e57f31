"""Which blocks a gate leaves, so that the others can be left out of a product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cvit.adapters import LoRABank, RoutingContext, joined, routing, used_blocks


@pytest.mark.parametrize(
    ("gate", "used"),
    [
        (torch.tensor([0.0, 1.0, 0.0]), range(1, 2)),
        (torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.5]]), range(3)),
        (torch.zeros(2, 3), range(1)),
        (torch.ones(3, requires_grad=True), None),
        (torch.ones(3, device="meta"), None),
    ],
)
def test_used_blocks_are_read_off_a_gate_that_is_at_hand(gate: torch.Tensor, used: range | None) -> None:
    assert used_blocks(gate) == used


class _Copies(TorchDispatchMode):
    """Counts blocks that are put side by side."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.cat.default:
            self.number += len(args[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("gate", "copied"),
    [(torch.tensor([0.0, 0.0, 1.0, 0.0]), 0), (torch.tensor([0.0, 0.5, 1.0, 0.0]), 4), (torch.ones(4), 8)],
)
def test_a_pass_joins_the_blocks_in_use_once_and_a_single_one_not_at_all(
    gate: torch.Tensor, copied: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = LoRABank(nn.Linear(6, 5), "decoder.0.up")
    for _ in range(len(gate)):
        bank.add_block(2, generator)
        with torch.no_grad():
            bank.block(-1).B.normal_(generator=generator)
    x = torch.randn(1, 3, 6, generator=generator)
    with torch.no_grad(), routing(RoutingContext(1, gate=gate, used=used_blocks(gate))):
        expected = bank(x)
        with _Copies() as copies, joined([bank]):
            outputs = [bank(x), bank(x)]
    assert copies.number == copied
    assert all(torch.equal(output, expected) for output in outputs)
