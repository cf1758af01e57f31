"""Which blocks a gate leaves, so that the others can be left out of a product."""

from __future__ import annotations

import pytest
import torch

from lit_cvit.adapters import used_blocks


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
