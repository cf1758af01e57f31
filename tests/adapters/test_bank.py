from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    joined,
    routing,
    used_blocks,
)
from lit_cvit.methods.smolora.router import DualRouter

IN, OUT, RANKS, SCALING = 6, 5, (2, 1, 3), 0.5


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _bank(
    ranks: tuple[int, ...] = RANKS,
    *,
    kind: str = "decoder",
    default_gate: str = "required",
    dropout: float = 0.0,
) -> LoRABank:
    generator = torch.Generator().manual_seed(1)
    base = nn.Linear(IN, OUT)
    with torch.no_grad():
        base.weight.copy_(_randn(OUT, IN, seed=2))
        base.bias.copy_(_randn(OUT, seed=3))
    bank = LoRABank(
        base,
        "layer",
        kind=kind,
        scaling=SCALING,
        dropout=dropout,
        default_gate=default_gate,
    )
    for rank in ranks:
        index = bank.add_block(rank, generator)
        nn.init.normal_(bank.block(index).B, generator=generator)
    return bank


def _loop(bank: LoRABank, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One block after the other, each formed in full width; weights (rows, positions, blocks)."""
    y = x @ bank.base.weight.T + bank.base.bias
    for i, block in enumerate(bank.lora_blocks()):
        y = y + SCALING * weights[..., i : i + 1] * ((x @ block.A.T) @ block.B.T)
    return y


def _assert_same_values_and_gradients(
    bank: LoRABank, x: torch.Tensor, context: RoutingContext, weights: torch.Tensor
) -> None:
    x = x.requires_grad_()
    parameters = [x, *bank.blocks.parameters()]
    with routing(context):
        y = bank(x)
    expected = _loop(bank, x, weights)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    probe = _randn(*y.shape, seed=9)
    for got, want in zip(
        torch.autograd.grad((y * probe).sum(), parameters),
        torch.autograd.grad((expected * probe).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_shared_gate_equals_a_loop_over_blocks() -> None:
    gate = _randn(3, seed=4)
    context = RoutingContext(num_samples=2, gate=gate)
    _assert_same_values_and_gradients(_bank(), _randn(2, 4, IN), context, gate.expand(2, 4, 3))


def test_sample_gate_equals_a_loop_over_blocks() -> None:
    gate = _randn(2, 3, seed=4)
    context = RoutingContext(num_samples=2, gates={"layer": gate})
    _assert_same_values_and_gradients(_bank(), _randn(2, 4, IN), context, gate[:, None].expand(2, 4, 3))


def test_position_gate_equals_a_loop_over_blocks() -> None:
    gate = _randn(2, 4, 3, seed=4)
    context = RoutingContext(num_samples=2, gates={"layer": gate})
    _assert_same_values_and_gradients(_bank(), _randn(2, 4, IN), context, gate)


def test_several_image_rows_of_a_sample_share_its_gate() -> None:
    # Sample 0 has no image, sample 1 has two, sample 2 has one.
    rows, gate = torch.tensor([1, 1, 2]), _randn(3, 3, seed=4)
    context = RoutingContext(num_samples=3, gate=gate, row_to_sample={"projector": rows})
    weights = gate[rows][:, None].expand(3, 4, 3)
    _assert_same_values_and_gradients(_bank(kind="projector"), _randn(3, 4, IN), context, weights)


def test_flattened_rows_are_one_position_each() -> None:
    rows, gate = torch.tensor([0, 0, 0, 1, 1]), _randn(2, 3, seed=4)
    context = RoutingContext(num_samples=2, gate=gate, row_to_sample={"projector": rows})
    _assert_same_values_and_gradients(_bank(kind="projector"), _randn(5, IN), context, gate[rows])


def test_decoder_rows_of_beam_search_follow_their_map() -> None:
    rows, gate = torch.tensor([0, 0, 1, 1]), _randn(2, 3, seed=4)
    context = RoutingContext(num_samples=2, gate=gate, row_to_sample={"decoder": rows})
    weights = gate[rows][:, None].expand(4, 2, 3)
    _assert_same_values_and_gradients(_bank(), _randn(4, 2, IN), context, weights)


def test_gate_of_a_bank_comes_before_the_shared_gate() -> None:
    own = torch.tensor([0.0, 1.0, 0.0])
    context = RoutingContext(num_samples=2, gate=torch.ones(3), gates={"layer": own})
    bank, x = _bank(), _randn(2, 4, IN)
    with routing(context):
        y = bank(x)
    torch.testing.assert_close(y, _loop(bank, x, own.expand(2, 4, 3)))


def test_learned_gate_receives_a_gradient() -> None:
    gate = _randn(2, 3, seed=4).requires_grad_()
    bank, x = _bank(), _randn(2, 4, IN)
    with routing(RoutingContext(num_samples=2, gate=gate)):
        (got,) = torch.autograd.grad(bank(x).sum(), gate)
    (want,) = torch.autograd.grad(_loop(bank, x, gate[:, None].expand(2, 4, 3)).sum(), gate)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_block_with_gate_zero_gets_an_exactly_zero_gradient() -> None:
    bank = _bank()
    with routing(RoutingContext(num_samples=2, gate=torch.tensor([1.0, 0.0, 1.0]))):
        bank(_randn(2, 4, IN)).square().sum().backward()
    largest = [[float(p.grad.abs().max()) for p in block.parameters()] for block in bank.blocks]
    assert largest[1] == [0.0, 0.0]
    assert min(*largest[0], *largest[2]) > 0


def test_fresh_block_changes_nothing() -> None:
    bank, x = _bank(default_gate="ones"), _randn(2, 4, IN)
    before = bank(x)
    bank.add_block(4, torch.Generator().manual_seed(7))
    torch.testing.assert_close(bank(x), before, atol=1e-6, rtol=1e-6)
    assert bank.ranks == (2, 1, 3, 4)


def test_bank_without_blocks_is_its_base_layer() -> None:
    bank, x = _bank(ranks=()), _randn(2, 4, IN)
    assert torch.equal(bank(x), bank.base(x))


def test_bank_with_ones_runs_outside_of_a_context() -> None:
    bank, x = _bank(default_gate="ones"), _randn(2, 4, IN)
    torch.testing.assert_close(bank(x), _loop(bank, x, torch.ones(2, 4, 3)))


def test_bank_with_ones_still_obeys_a_given_gate() -> None:
    bank, x = _bank(default_gate="ones"), _randn(2, 4, IN)
    with routing(RoutingContext(num_samples=2, gate=torch.zeros(3))):
        torch.testing.assert_close(bank(x), bank.base(x))


def test_bank_that_needs_a_gate_fails_outside_of_a_context() -> None:
    with pytest.raises(RuntimeError, match="outside of a routing context"):
        _bank()(_randn(2, 4, IN))


def test_missing_gate_names_the_bank() -> None:
    with routing(RoutingContext(num_samples=2)), pytest.raises(ValueError, match="no gate for bank 'layer'"):
        _bank()(_randn(2, 4, IN))


@pytest.mark.parametrize("shape", [(4,), (3, 3), (2, 1, 3)])
def test_gate_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    context = RoutingContext(num_samples=2, gate=torch.ones(shape))
    with (
        routing(context),
        pytest.raises(ValueError, match=r"allowed are \(3,\), \(2, 3\), \(2, 4, 3\)"),
    ):
        _bank()(_randn(2, 4, IN))


def test_missing_row_map_names_the_kind() -> None:
    context = RoutingContext(num_samples=2, gate=torch.ones(2, 3))
    with routing(context), pytest.raises(ValueError, match="no row_to_sample map for kind 'projector'"):
        _bank(kind="projector")(_randn(2, 4, IN))


def test_row_map_of_another_length_is_refused() -> None:
    context = RoutingContext(
        num_samples=2, gate=torch.ones(2, 3), row_to_sample={"projector": torch.tensor([0, 1, 1])}
    )
    with routing(context), pytest.raises(ValueError, match="got 4 rows, but the routing context has 3"):
        _bank(kind="projector")(_randn(4, 4, IN))


def test_bypass_runs_the_base_layer_alone() -> None:
    bank, x = _bank(), _randn(2, 4, IN)
    with routing(RoutingContext(num_samples=2, gate=torch.ones(3), bypass=True)):
        assert torch.equal(bank(x), bank.base(x))


def test_trace_receives_the_gate_that_was_used() -> None:
    trace: dict[str, torch.Tensor] = {}
    gate = torch.tensor([0.25, 0.5, 0.25])
    with routing(RoutingContext(num_samples=2, gate=gate, trace=trace)):
        _bank()(_randn(2, 4, IN))
    assert trace["layer"].tolist() == gate.tolist()


def test_freezing_makes_buffers_with_the_same_bits() -> None:
    bank = _bank()
    before = [block.A.detach().clone() for block in bank.lora_blocks()]
    optimizer_view = bank.block(1).A
    bank.freeze_block(1)
    optimizer_view.data.zero_()
    assert [name for name, _ in bank.blocks.named_parameters()] == ["0.A", "0.B", "2.A", "2.B"]
    assert sorted(name for name, _ in bank.blocks.named_buffers()) == ["1.A", "1.B"]
    assert all(torch.equal(b.A, a) for b, a in zip(bank.lora_blocks(), before, strict=True))


def test_frozen_block_still_counts_and_others_get_the_same_gradient() -> None:
    gate, x = _randn(3, seed=4), _randn(2, 4, IN)
    free, partly = _bank(), _bank()
    partly.freeze_block(0)
    for bank in (free, partly):
        with routing(RoutingContext(num_samples=2, gate=gate)):
            bank(x).square().sum().backward()
    grads = {name: p.grad for name, p in free.blocks.named_parameters()}
    for name, parameter in partly.blocks.named_parameters():
        assert torch.equal(parameter.grad, grads[name])


def test_unfreezing_gives_parameters_back_with_the_same_bits() -> None:
    bank = _bank()
    before = bank.block(0).B.detach().clone()
    bank.freeze_block(0)
    bank.unfreeze_block(0)
    assert torch.equal(bank.block(0).B, before)
    assert len(list(bank.blocks.parameters())) == 6


def test_block_can_be_added_frozen() -> None:
    bank = _bank(ranks=())
    bank.add_block(2, torch.Generator(), trainable=False)
    assert list(bank.blocks.parameters()) == []


def test_normal_init_draws_with_the_given_deviation() -> None:
    generator, same = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    bank = LoRABank(nn.Linear(IN, OUT), "layer", init_std=0.01)
    bank.add_block(3, generator)
    assert torch.equal(bank.block(0).A, torch.empty(3, IN).normal_(std=0.01, generator=same))
    assert not bank.block(0).B.any()


def test_a_block_without_rank_or_deviation_is_refused() -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        _bank(ranks=()).add_block(0, torch.Generator())
    with pytest.raises(ValueError, match="init_std must be positive or None, got 0"):
        LoRABank(nn.Linear(2, 2), "layer", init_std=0.0)


def test_unknown_default_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="required, ones"):
        LoRABank(nn.Linear(2, 2), "layer", default_gate="zeros")


def test_dropout_acts_once_on_the_common_input() -> None:
    bank, x = _bank(default_gate="ones", dropout=0.5), _randn(2, 4, IN)
    torch.manual_seed(0)
    got = bank(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.5)
    wide = _loop(bank, dropped, torch.ones(2, 4, 3)) - bank.base(dropped)
    torch.testing.assert_close(got, bank.base(x) + wide, atol=1e-5, rtol=1e-5)


def test_half_base_with_float_adapter_keeps_the_bases_dtype() -> None:
    bank = _bank(default_gate="ones")
    reference = copy.deepcopy(bank)
    bank.base.half()
    y = bank(_randn(2, 4, IN).half())
    assert y.dtype == torch.float16
    assert bank.block(0).A.dtype == torch.float32
    torch.testing.assert_close(y.float(), reference(_randn(2, 4, IN)), atol=2e-2, rtol=1e-2)


def test_autocast_rules_the_blocks_too() -> None:
    bank = _bank(default_gate="ones")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = _randn(2, 4, IN)
        assert bank.combined(bank.base(x), x).dtype == torch.bfloat16
        assert bank(_randn(2, 4, IN)).dtype == torch.bfloat16


def test_base_weight_stays_readable_and_is_counted_once() -> None:
    bank = _bank()
    assert bank.weight is bank.base.weight
    assert bank.bias is bank.base.bias
    assert [n for n, _ in bank.named_parameters() if "weight" in n] == ["base.weight"]


class _WideTensors(TorchDispatchMode):
    """Counts results as large as, or larger than, the layer's output."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.sizes = numel, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = {
            "aten::view",
            "aten::_unsafe_view",
            "aten::t",
            "aten::transpose",
            "aten::expand",
            "aten::detach",
        }
        if isinstance(out, torch.Tensor) and func.name().split(".")[0] not in views:
            self.sizes.append(out.numel())
        return out

    def wide(self) -> list[int]:
        return [size for size in self.sizes if size >= self.numel]


@pytest.mark.parametrize("num_blocks", [2, 8])
def test_no_tensor_of_output_width_is_made_per_block(num_blocks: int) -> None:
    rows, positions, width, out = 2, 16, 8, 256
    generator = torch.Generator().manual_seed(0)
    half = num_blocks // 2
    router = DualRouter(width, out, num_vu=half, num_if=half, instruction_size=3, generator=generator)
    bank = LoRABank(nn.Linear(width, out), "layer", router=router)
    for _ in range(num_blocks):
        bank.add_block(2, generator)
    context = RoutingContext(
        num_samples=rows,
        facts={"instruction": torch.randn(rows, 3, generator=generator)},
        prompt_mask=torch.ones(rows, positions, dtype=torch.bool),
    )
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    counter = _WideTensors(rows * positions * out)
    with (
        routing(context),
        counter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        bank(torch.randn(rows, positions, width, generator=generator))
    # The base output and its sum with what the blocks add: neither larger than the output, neither saved.
    assert counter.wide() == [rows * positions * out] * 2
    assert max(saved) < rows * positions * out


@pytest.mark.parametrize("held", [False, True])
def test_blocks_that_no_sample_uses_are_left_out(held: bool) -> None:
    bank, x = _bank(ranks=(2, 1, 3, 2)), _randn(2, 4, IN)
    gate = torch.tensor([[0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
    with routing(RoutingContext(num_samples=2, gate=gate)):
        expected = bank(x)
    for number in (0, 3):
        # A block that is in the product, and only weighed 0, would leave NaN.
        bank.block(number).A.data.fill_(torch.nan)
    context = RoutingContext(num_samples=2, gate=gate, used=used_blocks(gate), trace={})
    with routing(context), joined([bank]) if held else contextlib.nullcontext():
        found = bank(x)
    torch.testing.assert_close(found, expected)
    assert context.trace is not None
    assert torch.equal(context.trace[bank.name], gate.unsqueeze(1))
