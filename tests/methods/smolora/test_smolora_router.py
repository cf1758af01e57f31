from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    routing,
)
from lit_cvit.methods.smolora.router import DualRouter

IN, OUT, E = 6, 5, 4


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _router(num_vu: int = 3, num_if: int = 2, **options: Any) -> DualRouter:
    generator = torch.Generator().manual_seed(11)
    return DualRouter(
        IN, OUT, num_vu=num_vu, num_if=num_if, instruction_size=E, generator=generator, **options
    )


def _bank(router: DualRouter, ranks: tuple[int, ...] = (1, 2, 3, 2, 1), kind: str = "decoder") -> LoRABank:
    generator = torch.Generator().manual_seed(1)
    bank = LoRABank(nn.Linear(IN, OUT), "layer", kind=kind, scaling=2.0, router=router)
    for rank in ranks:
        index = bank.add_block(rank, generator)
        nn.init.normal_(bank.block(index).B, generator=generator)
    return bank


def _context(num_samples: int = 2, length: int = 4, **fields: Any) -> RoutingContext:
    return RoutingContext(
        num_samples=num_samples,
        facts={"instruction": _randn(num_samples, E, seed=5)},
        prompt_mask=torch.ones(num_samples, length, dtype=torch.bool),
        trace={},
        **fields,
    )


def _formed(bank: LoRABank, x: torch.Tensor, context: RoutingContext, top_k: int) -> torch.Tensor:
    """The paper's formulas, Eq. 4-9, block by block in full width and differentiable in the routers."""
    router = bank.router

    def gate(logits: torch.Tensor) -> torch.Tensor:
        stored = logits.topk(top_k, dim=-1).indices
        return logits.masked_fill(torch.ones_like(logits).scatter(-1, stored, 0).bool(), -torch.inf).softmax(
            -1
        )

    gates = torch.cat(
        [gate(x.mean(1) @ router.R_vu.T), gate(context.facts["instruction"] @ router.R_if.T)], -1
    )
    outputs = torch.stack([bank.scaling * (x @ b.A.T @ b.B.T) for b in bank.lora_blocks()], dim=-1)
    weighted = outputs * gates[:, None, None]
    vu, instr = weighted[..., : router.num_vu].sum(-1), weighted[..., router.num_vu :].sum(-1)
    alpha = torch.stack([vu @ router.I_vu, instr @ router.I_if], dim=-1).softmax(-1)
    return bank.base(x) + alpha[..., :1] * vu + alpha[..., 1:] * instr


@pytest.mark.parametrize("top_k", [1, 2])
def test_blocks_of_mixed_ranks_equal_the_papers_formulas(top_k: int) -> None:
    bank, x, context = _bank(_router(top_k=top_k)), _randn(2, 4, IN), _context()
    with routing(context):
        y = bank(x)
    torch.testing.assert_close(y, _formed(bank, x, context, top_k), atol=1e-5, rtol=1e-5)


def test_top_2_routers_train_with_the_gradient_of_the_papers_formulas() -> None:
    bank, context = _bank(_router(top_k=2)), _context()
    x, probe = _randn(2, 4, IN).requires_grad_(), _randn(2, 4, OUT, seed=3)
    tensors = [x, *(p for name, p in bank.named_parameters() if not name.startswith("base"))]
    with routing(context):
        got = torch.autograd.grad((bank(x) * probe).sum(), tensors)
    want = torch.autograd.grad((_formed(bank, x, context, 2) * probe).sum(), tensors)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    gradients = dict(zip([n for n, _ in bank.router.named_parameters()], got[-4:], strict=True))
    assert gradients.keys() == {"R_vu", "R_if", "I_vu", "I_if"}
    assert all(float(g.abs().max()) > 1e-3 for g in gradients.values())


def test_router_matrices_are_drawn_uniformly_from_the_generator() -> None:
    same = torch.Generator().manual_seed(11)
    router = _router()
    for value, fan_in in ((router.R_vu, IN), (router.R_if, E), (router.I_vu, OUT), (router.I_if, OUT)):
        bound = fan_in**-0.5
        assert torch.equal(value, torch.empty(value.shape).uniform_(-bound, bound, generator=same))


@pytest.mark.parametrize(
    ("numbers", "names"),
    [((3, 0), ["R_vu"]), ((0, 3), ["R_if"])],
    ids=["only VU", "only IF"],
)
def test_single_branch_has_weight_one_and_no_fusion_vectors(
    numbers: tuple[int, int], names: list[str]
) -> None:
    router = _router(*numbers)
    bank, context = _bank(router, ranks=(1, 2, 3)), _context()
    with routing(context):
        bank(_randn(2, 4, IN))
    assert list(router.state_dict()) == names
    assert context.trace["layer"].sum(-1).unique().tolist() == [1.0]


def test_mean_fusion_halves_both_branches() -> None:
    bank, context = _bank(_router(fusion="mean")), _context()
    with routing(context):
        bank(_randn(2, 4, IN))
    gate = context.trace["layer"]
    assert sorted(gate[0, 0].tolist()) == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert gate[..., :3].sum(-1).unique().tolist() == [0.5]
    assert list(bank.router.state_dict()) == ["R_vu", "R_if"]


def test_instance_mean_covers_all_image_rows_of_a_sample() -> None:
    rows = torch.tensor([0, 1, 1])
    bank, x = _bank(_router(), kind="projector"), _randn(3, 4, IN)
    context = _context(row_to_sample={"projector": rows})
    mean = bank.router.instance_mean(x, kind="projector", context=context)
    torch.testing.assert_close(mean, torch.stack([x[0].mean(0), x[1:].reshape(-1, IN).mean(0)]))
    with routing(context):
        bank(x)
    gate = context.trace["layer"]
    assert gate[1, 0, :3].argmax() == gate[2, 0, :3].argmax() == (mean[1] @ bank.router.R_vu.T).argmax()


def test_flattened_patches_are_routed_by_their_sample() -> None:
    x, rows = _randn(2, 4, IN), torch.arange(2).repeat_interleave(4)
    bank = _bank(_router(), kind="projector")
    with routing(_context(row_to_sample={"projector": rows})):
        flat = bank(x.flatten(0, 1))
    with routing(_context(row_to_sample={"projector": torch.arange(2)})):
        torch.testing.assert_close(flat.unflatten(0, (2, 4)), bank(x))


def test_beam_search_rows_are_routed_as_their_sample() -> None:
    bank, x, rows = _bank(_router()), _randn(2, 4, IN), torch.tensor([0, 0, 1, 1])
    with routing(_context()):
        single = bank(x)
    with routing(_context(row_to_sample={"decoder": rows})):
        torch.testing.assert_close(bank(x[rows]), single[rows])


def test_decode_step_without_a_prefill_is_an_error() -> None:
    with routing(_context()), pytest.raises(ValueError, match="no prefill in this routing context"):
        _bank(_router())(_randn(2, 1, IN))


def test_rerouting_averages_over_all_new_positions_of_a_step() -> None:
    bank, x, context = _bank(_router(decode="reroute")), _randn(2, 3, IN), _context()
    with routing(context):
        y = bank(x)
    torch.testing.assert_close(y, _formed(bank, x, context, 1), atol=1e-5, rtol=1e-5)


def test_projector_is_never_taken_for_a_decode_step() -> None:
    bank = _bank(_router(), kind="projector")
    context = _context(row_to_sample={"projector": torch.arange(2)})
    with routing(context):
        bank(_randn(2, 9, IN))
    assert context.memo == {}


def test_instruction_routing_alone_needs_no_prompt_mask() -> None:
    context = _context()
    context.prompt_mask = None
    with routing(context):
        _bank(_router(0, 2), ranks=(2, 2))(_randn(2, 4, IN))
    assert context.trace["layer"].shape == (2, 4, 2)


def test_instance_routing_asks_for_the_prompt_mask() -> None:
    context = _context()
    context.prompt_mask = None
    with routing(context), pytest.raises(ValueError, match="no prompt_mask"):
        _bank(_router())(_randn(2, 4, IN))


def test_missing_instruction_names_the_fact() -> None:
    context = _context()
    context.facts = {"image": torch.zeros(2, 3)}
    with routing(context), pytest.raises(ValueError, match="no fact 'instruction'; it has: image"):
        _bank(_router())(_randn(2, 4, IN))


def test_centre_is_subtracted_from_the_instance_mean() -> None:
    x = _randn(2, 4, IN)
    plain, centred = _bank(_router()), _bank(_router(vu_center=True))
    shift = 10 * _randn(IN, seed=8)
    centred.router.set_center(shift)
    gates = []
    for bank, values in ((plain, x), (centred, x + shift)):
        context = _context()
        with routing(context):
            bank(values)
        gates.append(context.trace["layer"][:, 0, :3].argmax(-1).tolist())
    assert gates[0] == gates[1]


def test_centre_is_set_once() -> None:
    router = _router(vu_center=True)
    router.set_center(torch.ones(IN))
    with pytest.raises(ValueError, match="already set"):
        router.set_center(torch.ones(IN))


def test_router_without_a_centre_refuses_one() -> None:
    with pytest.raises(ValueError, match="vu_center=False"):
        _router().set_center(torch.ones(IN))


def test_routing_is_the_same_under_autocast() -> None:
    x, gates = 30 * _randn(64, 4, IN), []
    bank = _bank(_router())
    for enabled in (False, True):
        context = _context(num_samples=64)
        with routing(context), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            bank(x)
        gates.append(context.trace["layer"][:, 0, :3].argmax(-1).tolist())
    assert gates[0] == gates[1]


def test_routing_sees_the_input_before_dropout() -> None:
    bank, x, gates = _bank(_router()), _randn(64, 4, IN), []
    bank.dropout.p = 0.9
    for training in (False, True):
        context = _context(num_samples=64)
        with routing(context):
            bank.train(training)(x)
        gates.append(context.trace["layer"][:, 0, :3].argmax(-1).tolist())
    assert gates[0] == gates[1]


def test_bank_with_another_number_of_blocks_is_refused() -> None:
    with routing(_context()), pytest.raises(ValueError, match=r"has 3 blocks, its router routes 3 \+ 2"):
        _bank(_router(), ranks=(1, 1, 1))(_randn(2, 4, IN))
