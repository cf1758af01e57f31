from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    adapter_state,
    load_adapter_state,
    routing,
)
from lit_cvit.methods.smolora.router import DualRouter

NAME = "decoder.0.mlp.up_proj"


def _banks(seed: int = 0, *, zero: bool = False) -> dict[str, LoRABank]:
    """A routed bank with one frozen block, and a plain bank; the base layers are the same for every seed."""
    generator = torch.Generator().manual_seed(seed)
    router = DualRouter(4, 3, num_vu=1, num_if=1, instruction_size=2, generator=generator)
    bases = [nn.Linear(4, 3), nn.Linear(3, 3)]
    for base in bases:
        nn.init.constant_(base.weight, 0.1)
        nn.init.zeros_(base.bias)
    banks = {
        NAME: LoRABank(bases[0], NAME, router=router),
        "projector.linear_1": LoRABank(bases[1], "projector.linear_1", default_gate="ones"),
    }
    for bank in banks.values():
        for rank in (1, 2):
            index = bank.add_block(rank, generator)
            if not zero:
                nn.init.normal_(bank.block(index).B, generator=generator)
    banks[NAME].freeze_block(0)
    return banks


def _context() -> RoutingContext:
    return RoutingContext(
        num_samples=2,
        facts={"instruction": torch.ones(2, 2)},
        prompt_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def _run(banks: dict[str, LoRABank]) -> torch.Tensor:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5))
    for bank in banks.values():
        x = bank(x)
    return x


def test_state_has_blocks_routers_and_frozen_tensors_but_no_base() -> None:
    names = [f"{NAME}.blocks.{i}.{part}" for i in (0, 1) for part in "AB"]
    names += [f"{NAME}.router.{part}" for part in ("I_vu", "I_if", "R_vu", "R_if")]
    names += [f"projector.linear_1.blocks.{i}.{part}" for i in (0, 1) for part in "AB"]
    assert sorted(adapter_state(_banks())) == sorted(names)


def test_state_goes_through_safetensors_and_back_bit_for_bit(tmp_path: Path) -> None:
    source, target = _banks(seed=1), _banks(seed=2)
    save_file(adapter_state(source), tmp_path / "adapter.safetensors")
    load_adapter_state(target, load_file(tmp_path / "adapter.safetensors"))
    for name, value in adapter_state(source).items():
        assert torch.equal(adapter_state(target)[name], value)
    with routing(_context()):
        assert torch.equal(_run(target), _run(source))


def test_loading_keeps_what_trains_and_what_is_frozen() -> None:
    banks = _banks(seed=2)
    load_adapter_state(banks, adapter_state(_banks(seed=1)))
    assert [block.trainable for block in banks[NAME].lora_blocks()] == [False, True]


def test_state_of_a_frozen_block_loads_into_one_that_trains() -> None:
    source, target = _banks(seed=1), _banks(seed=2)
    target[NAME].unfreeze_block(0)
    load_adapter_state(target, adapter_state(source))
    assert torch.equal(target[NAME].block(0).A, source[NAME].block(0).A)


def test_bad_state_lists_every_problem_and_loads_nothing() -> None:
    banks = _banks(seed=1)
    before = {name: value.clone() for name, value in adapter_state(banks).items()}
    state = adapter_state(_banks(seed=2))
    state[f"{NAME}.block.1.A"] = state.pop(f"{NAME}.blocks.1.A")
    state["projector.linear_1.blocks.0.B"] = torch.zeros(3, 7)
    with pytest.raises(ValueError, match="the saved adapter does not fit") as error:
        load_adapter_state(banks, state)
    assert str(error.value).splitlines()[1:] == [
        "1 missing:",
        f"  {NAME}.blocks.1.A",
        "1 unexpected:",
        f"  {NAME}.block.1.A (nearest missing name: {NAME}.blocks.1.A)",
        "1 of another shape:",
        "  projector.linear_1.blocks.0.B is (3, 7), should be (3, 1)",
    ]
    assert all(torch.equal(value, before[name]) for name, value in adapter_state(banks).items())


def test_long_lists_of_problems_are_cut() -> None:
    with pytest.raises(ValueError, match="12 missing:") as error:
        load_adapter_state(_banks(), {})
    assert str(error.value).splitlines()[-1] == "  and 4 more"
