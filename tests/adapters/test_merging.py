"""Banks merged into their layers: the same sum, where a batch has one gate, and the same bits afterwards."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn

from lit_cvit.adapters import (
    DoRABank,
    LoRABank,
    MergedBanks,
    PatchedBank,
    Router,
    RoutingContext,
    routing,
)
from lit_cvit.methods.hide.method import HiDeBank

IN, OUT, SAMPLES, POSITIONS = 12, 10, 3, 4
ALIKE = torch.tensor([[0.5, 2.0]] * SAMPLES)
MIXED = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def bank_of(
    family: type[LoRABank] = LoRABank, name: str = "layer", *, blocks: int = 2, **more: Any
) -> LoRABank:
    generator = torch.Generator().manual_seed(1)
    base = nn.Linear(IN, OUT).requires_grad_(False)
    base.weight.copy_(torch.randn(OUT, IN, generator=generator))
    bank = family(base, name, scaling=0.5, **more)
    if isinstance(bank, PatchedBank):
        bank.patch_size = 5
    for _ in range(blocks):
        index = bank.add_block(3, generator)
        nn.init.normal_(bank.block(index).B, generator=generator)
    if isinstance(bank, PatchedBank):
        change = torch.randn(OUT, IN, generator=generator)
        bank.patch(-1).fill(change, torch.arange(OUT * IN).reshape(OUT, IN) % 24 == 0)
    return bank.eval()


def inputs() -> Tensor:
    return torch.randn(SAMPLES, POSITIONS, IN, generator=torch.Generator().manual_seed(2))


def outputs(bank: LoRABank, context: RoutingContext) -> Tensor:
    with routing(context), torch.no_grad():
        found: Tensor = bank(inputs())
    return found


def crossed() -> LoRABank:
    bank = bank_of(HiDeBank)
    assert isinstance(bank, HiDeBank)
    bank.crossed = True
    return bank


CASES: dict[str, tuple[Any, RoutingContext]] = {
    "a gate for all": (bank_of, RoutingContext(SAMPLES, gate=torch.tensor([0.5, 2.0]))),
    "equal gates": (bank_of, RoutingContext(SAMPLES, gate=ALIKE)),
    "a gate of its own": (bank_of, RoutingContext(SAMPLES, gate=MIXED, gates={"layer": ALIKE})),
    "no block": (bank_of, RoutingContext(SAMPLES, gate=torch.zeros(SAMPLES, 2))),
    "all ones": (lambda: bank_of(default_gate="ones"), RoutingContext(SAMPLES)),
    "a product of sums": (crossed, RoutingContext(SAMPLES, gate=ALIKE)),
    "patches": (lambda: bank_of(PatchedBank, blocks=1, default_gate="ones"), RoutingContext(SAMPLES)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_merged_bank_is_its_layer_alone_and_gives_the_same(case: str) -> None:
    make, context = CASES[case]
    bank = make()
    before, weight = outputs(bank, context), bank.base.weight.clone()
    merged = MergedBanks([bank])
    merged.follow(context)
    with torch.no_grad():
        alone = bank.base(inputs())
    assert bank.merged
    assert torch.equal(outputs(bank, context), alone)
    torch.testing.assert_close(alone, before)
    merged.restore()
    assert not bank.merged
    assert torch.equal(bank.base.weight, weight)
    assert torch.equal(outputs(bank, context), before)


def test_every_batch_is_merged_by_its_own_gate_or_not_at_all() -> None:
    bank = bank_of()
    weight = bank.base.weight.clone()
    merged = MergedBanks([bank])
    batches = [RoutingContext(SAMPLES, gate=gate) for gate in (ALIKE, MIXED, 2 * ALIKE, ALIKE[:1], ALIKE)]
    states = []
    for context in batches:
        merged.follow(context)
        states.append((bank.merged, bank.base.weight.clone()))
    assert [state for state, _ in states] == [True, False, True, False, True]
    assert torch.equal(states[1][1], weight)
    assert torch.equal(states[3][1], weight)
    # Not the sum of what was merged before.
    assert torch.equal(states[4][1], states[0][1])
    torch.testing.assert_close(states[2][1] - weight, 2 * (states[0][1] - weight))


def test_an_equal_gate_is_not_merged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of()
    calls: list[Tensor] = []
    change = bank.merged_change
    monkeypatch.setattr(bank, "merged_change", lambda gate: calls.append(gate) or change(gate))
    merged = MergedBanks([bank])
    for _ in range(3):
        merged.follow(RoutingContext(SAMPLES, gate=ALIKE.clone()))
    assert [gate.tolist() for gate in calls] == [[0.5, 2.0]]


class Even(Router):
    def forward(self, x: Tensor, z: Tensor, bank: Any, context: RoutingContext) -> Tensor:
        return z.new_ones(*z.shape[:-1], len(bank.ranks))


def packed() -> LoRABank:
    bank = LoRABank(bnb.nn.Linear4bit(IN, OUT, compute_dtype=torch.float32), "layer", default_gate="ones")
    bank.add_block(2, torch.Generator().manual_seed(0))
    return bank


@pytest.mark.parametrize(
    "make",
    [
        lambda: bank_of(router=Even()),
        lambda: bank_of(DoRABank, blocks=1, default_gate="ones"),
        lambda: bank_of(blocks=0, default_gate="ones"),
        packed,
    ],
    ids=["a router", "a norm of the weight", "no blocks", "4 bits"],
)
def test_what_is_no_matrix_of_the_layer_is_never_merged(make: Any) -> None:
    bank = make()
    merged = MergedBanks([bank])
    merged.follow(RoutingContext(SAMPLES))
    assert (bank.merges, bank.merged) == (False, False)


def test_gates_of_positions_and_traced_gates_are_not_merged() -> None:
    bank = bank_of()
    merged = MergedBanks([bank])
    by_position = torch.ones(SAMPLES, POSITIONS, 2)
    for context in (
        RoutingContext(SAMPLES, gate=by_position),
        RoutingContext(SAMPLES, gate=ALIKE, trace={}),
        RoutingContext(SAMPLES),
    ):
        merged.follow(context)
        assert not bank.merged


def test_a_16_bit_weight_is_the_sum_rounded_once() -> None:
    bank = bank_of()
    bank.base.to(torch.bfloat16)
    weight = bank.base.weight.clone()
    change = bank.merged_change(ALIKE[0])
    merged = MergedBanks([bank])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged.follow(RoutingContext(SAMPLES, gate=ALIKE))
    assert torch.equal(bank.base.weight, (weight.float() + change).to(torch.bfloat16))
    merged.restore()
    assert torch.equal(bank.base.weight, weight)


def test_a_merged_layer_cannot_be_run_without_its_bank() -> None:
    bank = bank_of()
    MergedBanks([bank]).follow(RoutingContext(SAMPLES, gate=ALIKE))
    with pytest.raises(RuntimeError, match="bank 'layer' is merged into its layer"):
        outputs(bank, RoutingContext(SAMPLES, gate=ALIKE, bypass=True))
