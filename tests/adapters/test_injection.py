from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_cvit.adapters import LoRABank, Target, inject

TARGETS = {
    "decoder.0.mlp.up_proj": Target("layers.0.up"),
    "decoder.1.mlp.up_proj": Target("layers.1.up"),
    "projector.linear_1": Target("connector", "projector"),
}


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.up(x))


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.connector = nn.Linear(3, 4)
        self.layers = nn.Sequential(_Layer(), _Layer())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.connector(x))


def _make_bank(name: str, target: Target, base: nn.Linear) -> LoRABank:
    bank = LoRABank(base, name, kind=target.kind, default_gate="ones")
    bank.add_block(2, torch.Generator().manual_seed(0))
    return bank


def test_targets_are_replaced_in_place_under_canonical_names() -> None:
    model = _Model()
    bases = [model.layers[0].up, model.layers[1].up, model.connector]
    banks = inject(model, TARGETS, _make_bank)
    assert list(banks) == list(TARGETS)
    assert [model.layers[0].up, model.layers[1].up, model.connector] == list(banks.values())
    assert [bank.base for bank in banks.values()] == bases
    assert [(bank.name, bank.kind) for bank in banks.values()] == [(n, t.kind) for n, t in TARGETS.items()]


def test_injected_fresh_adapters_leave_the_output_bit_identical() -> None:
    model, x = _Model(), torch.ones(2, 3)
    before = model(x)
    inject(model, TARGETS, _make_bank)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("layers.0.upp", r"no module 'layers.0.upp'; nearest: .*layers.0.up"),
        ("layers.0.norm", "is a LayerNorm; only linear layers"),
        ("layers.1.up", "name the same module 'layers.1.up'"),
    ],
)
def test_bad_target_is_refused_and_nothing_is_replaced(target: str, message: str) -> None:
    model = _Model()
    targets = {**TARGETS, "decoder.2.mlp.up_proj": Target(target)}
    with pytest.raises(ValueError, match=message):
        inject(model, targets, _make_bank)
    assert not any(isinstance(module, LoRABank) for module in model.modules())


def test_module_that_carries_a_bank_is_refused() -> None:
    model = _Model()
    inject(model, TARGETS, _make_bank)
    with pytest.raises(ValueError, match="already carries the bank 'projector.linear_1'"):
        inject(model, {"again": Target("connector", "projector")}, _make_bank)
