"""What a step of an adapted layer costs beside PEFT's LoRA: counted, not timed, so that no machine decides.

Floating point operations of forward and backward, tensors that autograd keeps, and calls into torch's
library, which on a GPU are kernels to launch. `benchmarks/adapter_step.py` takes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lit_cvit.adapters import RoutingContext, Target, routing, used_blocks
from lit_cvit.backbones import Tiny
from lit_cvit.methods import ContinualMethod, HiDe, MoELoRA, OLoRA, ProgLoRADynamic, SeqLoRA, SMoLoRA

WIDTH, RANK, SAMPLES, LENGTH, BLOCKS = 256, 16, 4, 64, 8
NAME = "decoder.0.mlp.up_proj"


@dataclass(frozen=True)
class Cost:
    """Of one step beyond the bare layer: operations, bytes that are kept, calls."""

    flops: int
    kept: int
    calls: int


class Calls(TorchDispatchMode):
    """Counts calls into torch's library."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


def measured(layer: nn.Module, context: RoutingContext) -> Cost:
    x = torch.randn(SAMPLES, LENGTH, WIDTH, requires_grad=True)
    own = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def step() -> None:
        with routing(context):
            layer(x).sum().backward()

    step()  # Gradients are there from now on.
    with FlopCounterMode(display=False) as flops:
        step()
    with Calls() as calls:
        step()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), routing(context):
        layer(x)
    sizes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return Cost(flops.get_total_flops(), sizes, calls.number)


@pytest.fixture(scope="module")
def base() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WIDTH).requires_grad_(False)


@pytest.fixture(scope="module")
def cost(base: nn.Linear) -> Callable[..., Cost]:
    """The cost of a method's bank with blocks of these ranks, the first `frozen` of which do not train."""
    bare = measured(base, RoutingContext(SAMPLES))

    def beyond(found: Cost) -> Cost:
        return Cost(found.flops - bare.flops, found.kept - bare.kept, found.calls - bare.calls)

    def of(
        family: type[ContinualMethod] | None,
        ranks: Sequence[int] = (RANK,),
        *,
        frozen: int = 0,
        gate: Tensor | None = None,
        **settings: Any,
    ) -> Cost:
        if family is None:
            config = LoraConfig(r=RANK, lora_alpha=2 * RANK)
            layer = PeftLinear(base, "default", config=config, r=RANK, lora_alpha=2 * RANK)
            return beyond(measured(layer, RoutingContext(SAMPLES)))
        bank = family(Tiny(), **settings).make_bank(NAME, Target(NAME), base)
        generator = torch.Generator().manual_seed(0)
        for number, rank in enumerate(ranks):
            bank.add_block(rank, generator, trainable=number >= frozen)
            with torch.no_grad():
                bank.block(number).B.normal_(std=0.02, generator=generator)
        context = RoutingContext(
            SAMPLES,
            gate=gate,
            used=None if gate is None else used_blocks(gate),
            facts={"instruction": torch.randn(SAMPLES, 384, generator=generator)},
            prompt_mask=torch.ones(SAMPLES, LENGTH, dtype=torch.bool),
        )
        return beyond(measured(bank, context))

    return of


WHOLE = {"rank": RANK, "alpha": 2 * RANK}
PART = {"rank": RANK // BLOCKS, "alpha": 2 * RANK // BLOCKS}
POOL = [RANK // BLOCKS] * BLOCKS


def newest() -> Tensor:
    gate = torch.zeros(SAMPLES, BLOCKS)
    gate[:, -1] = 1
    return gate


@pytest.fixture(scope="module")
def lora(cost: Callable[..., Cost]) -> Cost:
    return cost(SeqLoRA, gate=torch.ones(1), **WHOLE)


def test_lora_costs_what_that_of_peft_does(cost: Callable[..., Cost], lora: Cost) -> None:
    peft = cost(None)
    assert lora.flops == peft.flops
    # One number more, the gate.
    assert lora.kept <= peft.kept + 4
    assert lora.calls <= 1.3 * peft.calls


@pytest.mark.parametrize(
    ("family", "gate", "settings"),
    [
        (OLoRA, torch.ones(BLOCKS), PART),
        (ProgLoRADynamic, torch.full((SAMPLES, BLOCKS), 1 / BLOCKS), {**PART, "scaling": None}),
    ],
)
def test_a_pool_with_frozen_blocks_costs_less_than_one_block_of_its_rank(
    cost: Callable[..., Cost],
    lora: Cost,
    family: type[ContinualMethod],
    gate: Tensor,
    settings: dict[str, Any],
) -> None:
    pool = cost(family, POOL, frozen=BLOCKS - 1, gate=gate, **settings)
    # No gradient of frozen blocks is formed.
    assert pool.flops < 0.75 * lora.flops
    assert pool.kept <= 1.05 * lora.kept
    assert pool.calls <= 1.2 * lora.calls


def test_blocks_that_no_sample_uses_cost_nothing(cost: Callable[..., Cost], lora: Cost) -> None:
    pool = cost(HiDe, POOL, frozen=BLOCKS - 1, gate=newest(), **PART)
    assert pool.flops * BLOCKS == lora.flops


@pytest.mark.parametrize(("family", "flops", "calls"), [(SMoLoRA, 1.03, 4.0), (MoELoRA, 1.3, 1.9)])
def test_a_mixture_costs_little_more_than_one_block_of_its_rank(
    cost: Callable[..., Cost], lora: Cost, family: type[ContinualMethod], flops: float, calls: float
) -> None:
    mixture = cost(family, POOL, **WHOLE)
    assert mixture.flops <= flops * lora.flops
    # Gates and weights of positions, which are as many as ranks on a layer as small as this one.
    assert mixture.kept <= lora.kept + 4 * SAMPLES * LENGTH * (2 * RANK + 4 * BLOCKS)
    assert mixture.calls <= calls * lora.calls
