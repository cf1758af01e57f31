"""The bank against PEFT, an independent implementation of LoRA."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from lit_cvit.adapters import LoRABank, RoutingContext, routing

IN, OUT = 12, 10


def _peft(ranks: dict[str, int], alpha: int) -> peft.PeftModel:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(IN, OUT))
    model = None
    for name, rank in ranks.items():
        config = peft.LoraConfig(r=rank, lora_alpha=alpha * rank, target_modules=["0"], lora_dropout=0.0)
        if model is None:
            model = peft.get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for name in ranks:
        nn.init.normal_(layer.lora_B[name].weight)
    return model


def _bank(model: peft.PeftModel, names: list[str], scaling: float) -> LoRABank:
    layer = model.base_model.model[0]
    bank = LoRABank(layer.base_layer, "layer", scaling=scaling)
    for name in names:
        index = bank.add_block(layer.r[name], torch.Generator())
        with torch.no_grad():
            bank.block(index).A.copy_(layer.lora_A[name].weight)
            bank.block(index).B.copy_(layer.lora_B[name].weight)
    return bank


def _x(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 4, IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.compat
def test_one_block_equals_peft_lora_in_values_and_gradients() -> None:
    model = _peft({"one": 4}, alpha=2)
    layer, bank = model.base_model.model[0], _bank(model, ["one"], 2.0)
    results = []
    for run, down, up in (
        (model, layer.lora_A["one"].weight, layer.lora_B["one"].weight),
        (bank, bank.block(0).A, bank.block(0).B),
    ):
        x = _x().requires_grad_()
        with routing(RoutingContext(num_samples=3, gate=torch.ones(1))):
            y = run(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, down, up])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_shared_gate_equals_pefts_weighted_concatenation_of_mixed_ranks() -> None:
    weights = [0.7, 1.5, 0.2]
    model = _peft({"first": 2, "second": 4, "third": 3}, alpha=2)
    bank = _bank(model, ["first", "second", "third"], 2.0)
    model.add_weighted_adapter(["first", "second", "third"], weights, "mixed", combination_type="cat")
    model.set_adapter("mixed")
    with routing(RoutingContext(num_samples=3, gate=torch.tensor(weights))):
        torch.testing.assert_close(bank(_x()), model(_x()), atol=1e-5, rtol=1e-5)


@pytest.mark.compat
def test_sample_gate_equals_pefts_batch_of_mixed_adapters() -> None:
    model = _peft({"first": 2, "second": 4}, alpha=3).eval()
    bank = _bank(model, ["first", "second"], 3.0)
    expected = model(_x(), adapter_names=["second", "first", "second"])
    gate = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    with routing(RoutingContext(num_samples=3, gate=gate)):
        torch.testing.assert_close(bank(_x()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.compat
def test_default_init_draws_what_peft_draws(rank: int) -> None:
    model = _peft({"one": rank}, alpha=1)
    layer, bank = model.base_model.model[0], LoRABank(nn.Linear(IN, OUT), "layer")
    torch.manual_seed(7)
    layer.reset_lora_parameters("one", True)
    bank.add_block(rank, torch.Generator().manual_seed(7))
    assert torch.equal(bank.block(0).A, layer.lora_A["one"].weight)
    assert torch.equal(bank.block(0).B, layer.lora_B["one"].weight)
