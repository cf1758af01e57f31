"""DoRA's layer: against PEFT and plain numpy, on packed weights, and what its norm costs."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import numpy as np
import peft
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from sizes_kit import LargestTensor
from torch import nn

from lit_cvit.adapters import DoRABank, RoutingContext, joined, routing
from lit_cvit.adapters.dora import DoRABlock, unpacked_weight
from lit_cvit.adapters.kernels import row_norms

IN, OUT, RANK = 64, 48, 4
SCALING = 1.5


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _linear(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(IN, OUT, bias=bias).requires_grad_(False)
    for tensor in layer.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=_generator()) / IN**0.5)
    return layer.to(dtype)


def _bank(base: nn.Linear) -> DoRABank:
    """A bank whose A, B and m are not those it starts with."""
    bank = DoRABank(base, "layer", scaling=SCALING, default_gate="ones")
    bank.add_block(RANK, _generator(1))
    with torch.no_grad():
        block = _block(bank)
        block.B.copy_(torch.randn(OUT, RANK, generator=_generator(2)) * 0.3)
        block.m.mul_(1 + 0.2 * torch.rand(OUT, generator=_generator(3)))
    return bank


def _block(bank: DoRABank) -> DoRABlock:
    block = bank.block(0)
    assert isinstance(block, DoRABlock)
    return block


def _x() -> torch.Tensor:
    return torch.randn(3, 5, IN, generator=_generator(4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.compat
def test_values_and_gradients_are_pefts(bias: bool) -> None:
    """PEFT forms B A in full; its norm is a constant in the backward pass as ours is."""
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=SCALING * RANK,
        target_modules=["0"],
        lora_dropout=0.0,
        use_dora=True,  # type: ignore[arg-type]
    )
    other = peft.get_peft_model(nn.Sequential(_linear(bias=bias)), config)
    theirs = other.base_model.model[0]
    parameters = [
        theirs.lora_A["default"].weight,
        theirs.lora_B["default"].weight,
        theirs.lora_magnitude_vector["default"].weight,
    ]
    bank = _bank(_linear(bias=bias))
    block = _block(bank)
    results = []
    for run, own in ((bank, [block.A, block.B, block.m]), (other, parameters)):
        with torch.no_grad():
            for parameter, value in zip(own, (block.A, block.B, block.m), strict=True):
                parameter.copy_(value)
        x = _x().requires_grad_()
        y = run(x)
        results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), [x, *own])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_the_layer_multiplies_by_the_decomposed_weight() -> None:
    bank = _bank(_linear())
    A, B, m = (part.detach().double().numpy() for part in _block(bank).parameters())
    weight = bank.weight.double().numpy() + SCALING * B @ A
    weight = m[:, None] * weight / np.sqrt((weight**2).sum(1, keepdims=True))
    assert bank.bias is not None
    expected = _x().double().numpy() @ weight.T + bank.bias.double().numpy()
    np.testing.assert_allclose(bank(_x()).detach().numpy(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_block_changes_nothing(dtype: torch.dtype) -> None:
    base = _linear(bias=False, dtype=dtype)
    bank = DoRABank(base, "layer", scaling=SCALING, default_gate="ones")
    bank.add_block(RANK, _generator())
    x = _x().to(dtype)
    assert torch.equal(bank(x), base(x))


def _packed(form: str) -> nn.Linear:
    plain = _linear()
    if form == "int8":
        layer = bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(
            plain.weight.data.clone(), requires_grad=False, has_fp16_weights=False
        )
    else:
        layer = bnb.nn.Linear4bit(IN, OUT, compute_dtype=torch.float32, quant_type=form)
        layer.weight = bnb.nn.Params4bit(plain.weight.data.clone(), requires_grad=False, quant_type=form)
    layer.bias = plain.bias
    return layer.to("cpu")


@pytest.mark.parametrize("form", ["nf4", "fp4"])
@pytest.mark.compat
def test_on_a_4_bit_layer_it_is_the_layer_of_the_same_values(form: str) -> None:
    packed, plain = _packed(form), _linear()
    weight: Any = packed.weight
    plain.weight.copy_(dequantize_4bit(weight.data, weight.quant_state))
    results = []
    for base in (packed, plain):
        bank, x = _bank(base), _x().requires_grad_()
        y = bank(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *bank.blocks.parameters()])])
        assert base.weight is bank.weight, "the packed weight stays, and no other one is kept"
        assert [name for name, _ in bank.named_buffers() if not name.startswith("base.")] == []
    assert packed.weight.dtype == torch.uint8
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.compat
def test_on_an_8_bit_layer_the_norm_is_that_of_its_rounded_weight_before_and_after_it_ran() -> None:
    base = _packed("int8")
    before = unpacked_weight(base).clone()
    weight = _linear().weight
    step = weight.abs().amax(1, keepdim=True) / 127
    assert float(((before.float() - weight).abs() / step).max()) < 0.6
    bank = _bank(base)
    y = bank(_x())
    assert torch.equal(unpacked_weight(base), before)
    A, B, m = (part.detach() for part in _block(bank).parameters())
    assert bank.bias is not None
    expected = (y - bank.bias) / m - (base(_x()) - bank.bias + SCALING * _x() @ A.T @ B.T) / (
        before.float() + SCALING * B @ A
    ).norm(dim=1)
    assert expected.abs().max() < 1e-4


def test_the_norm_forms_nothing_of_the_weights_size() -> None:
    weight, down = torch.randn(OUT, IN), torch.randn(RANK, IN)
    up = torch.randn(OUT, RANK)
    with LargestTensor() as sizes:
        norms = row_norms(weight, down, up, scaling=SCALING)
    torch.testing.assert_close(norms, (weight + SCALING * up @ down).norm(dim=1))
    assert 0 < sizes.elements <= IN * RANK


def test_the_norm_of_a_16_bit_weight_is_formed_in_full_precision() -> None:
    bank = _bank(_linear(dtype=torch.bfloat16))
    block = _block(bank)
    norms = row_norms(bank.weight, block.A, block.B, scaling=SCALING)
    exact = (bank.weight.double() + SCALING * block.B.double() @ block.A.double()).norm(dim=1)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms.double(), exact, atol=0, rtol=5e-3)


def test_joined_banks_form_the_norm_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, calls = _bank(_linear()), []
    real = DoRABank._norms

    def counted(self: DoRABank, *blocks: torch.Tensor) -> torch.Tensor:
        calls.append(self)
        return real(self, *blocks)

    monkeypatch.setattr(DoRABank, "_norms", counted)
    alone = bank(_x())
    with joined([bank]):
        together = [bank(_x()) for _ in range(3)]
    assert len(calls) == 2
    assert all(torch.equal(each, alone) for each in together)
    with torch.no_grad():
        _block(bank).m.mul_(2)
    assert not torch.equal(bank(_x()), alone)


def test_a_second_block_and_a_gate_are_refused() -> None:
    bank = _bank(_linear())
    with pytest.raises(ValueError, match="'layer' has a block"):
        bank.add_block(RANK, _generator())
    gated = RoutingContext(num_samples=3, gate=torch.ones(3, 1))
    with routing(gated), pytest.raises(ValueError, match="'layer' .* takes no gate"):
        bank(_x())


def test_a_frozen_block_freezes_its_magnitude_and_the_bypass_is_the_base_layer() -> None:
    bank = _bank(_linear())
    y = bank(_x())
    bank.freeze_block(0)
    assert list(bank.blocks.parameters()) == []
    assert torch.equal(bank(_x()), y)
    bank.unfreeze_block(0)
    assert [name for name, _ in bank.blocks.named_parameters()] == ["0.A", "0.B", "0.m"]
    with routing(RoutingContext(num_samples=3, bypass=True)):
        assert torch.equal(bank(_x()), bank.base(_x()))
