from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from lit_cvit.adapters import LoRABank, RoutingContext, Target, inject, routing

IN, OUT = 128, 64


def _quantized(quant_type: str) -> bnb.nn.Linear4bit:
    layer = bnb.nn.Linear4bit(IN, OUT, compute_dtype=torch.float32, quant_type=quant_type)
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0)) / IN**0.5
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=quant_type)
    layer.bias.requires_grad_(False)
    return layer.to("cpu")


def _dequantized(layer: bnb.nn.Linear4bit) -> nn.Linear:
    plain = nn.Linear(IN, OUT).requires_grad_(False)
    plain.weight.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    plain.bias.copy_(layer.bias)
    return plain


def _bank(base: nn.Linear) -> LoRABank:
    generator = torch.Generator().manual_seed(1)
    bank = LoRABank(base, "layer")
    for rank in (2, 3):
        index = bank.add_block(rank, generator)
        nn.init.normal_(bank.block(index).B, generator=generator)
    return bank


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.compat
def test_bank_on_a_4_bit_layer_equals_the_bank_on_its_dequantised_weights(quant_type: str) -> None:
    layer = _quantized(quant_type)
    banks = [_bank(layer), _bank(_dequantized(layer))]
    results = []
    for bank in banks:
        x = torch.randn(2, 3, IN, generator=torch.Generator().manual_seed(2)).requires_grad_()
        with routing(RoutingContext(num_samples=2, gate=torch.tensor([[1.0, 0.5], [0.0, 2.0]]))):
            y = bank(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *bank.blocks.parameters()])])
    assert layer.weight.dtype == torch.uint8
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_4_bit_layer_is_injected_as_any_linear() -> None:
    model = nn.Sequential(_quantized("nf4"))
    banks = inject(model, {"layer": Target("0")}, lambda name, target, base: LoRABank(base, name))
    assert isinstance(banks["layer"].base, bnb.nn.Linear4bit)
    assert (banks["layer"].in_features, banks["layer"].out_features) == (IN, OUT)
