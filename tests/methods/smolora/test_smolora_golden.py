"""The fused SMoLoRA layer against outputs of the official code (tests/golden/smolora_SOURCE.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lit_cvit.adapters import (
    LoRABank,
    RoutingContext,
    load_adapter_state,
    routing,
)
from lit_cvit.adapters.kernels import weigh_blocks
from lit_cvit.methods.smolora.router import DualRouter

GOLDEN = Path(__file__).parents[2] / "golden"
WITH_GRADIENTS = [
    "linear_a",
    "linear_b",
    "linear_c_bias",
    "linear_d_twoexperts",
    "linear_e_long",
    "linear_init_state",
    "linear_tie_zero_instance",
]
VALUES = {"atol": 1e-5, "rtol": 1e-5}
GRADIENTS = {"atol": 2e-5, "rtol": 1e-4}


def _golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"smolora_{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(np.array(value)) for key, value in data.items()}


def _bank(data: dict[str, torch.Tensor], **options: Any) -> LoRABank:
    num_blocks, rank, width = data["A"].shape
    out, half = data["B"].shape[1], num_blocks // 2
    generator = torch.Generator().manual_seed(0)
    router = DualRouter(
        width,
        out,
        num_vu=half,
        num_if=num_blocks - half,
        instruction_size=data["R_if"].shape[1],
        generator=generator,
        **options,
    )
    base = nn.Linear(width, out, bias="bias" in data).requires_grad_(False)
    base.weight.copy_(data["W0"])
    if "bias" in data:
        base.bias.copy_(data["bias"])
    bank = LoRABank(base, "layer", scaling=float(data["scaling"]), router=router)
    state = {f"layer.router.{key}": data[key] for key in ("R_vu", "R_if", "I_vu", "I_if")}
    for i in range(num_blocks):
        bank.add_block(rank, generator)
        state |= {f"layer.blocks.{i}.A": data["A"][i], f"layer.blocks.{i}.B": data["B"][i]}
    load_adapter_state({"layer": bank}, state)
    return bank


def _context(
    data: dict[str, torch.Tensor], num_samples: int, length: int, task: int | None = None
) -> RoutingContext:
    row = data["ins_emb"][int(data["ins_type"]) if task is None else task]
    return RoutingContext(
        num_samples=num_samples,
        facts={"instruction": row.expand(num_samples, -1)},
        prompt_mask=torch.ones(num_samples, length, dtype=torch.bool),
        trace={},
    )


def _experts(gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The VU and IF block of each sample in a traced gate (rows, positions, blocks); IF counted globally."""
    half = gate.shape[-1] // 2
    return gate[:, 0, :half].argmax(-1), gate[:, 0, half:].argmax(-1) + half


def _formed(
    data: dict[str, torch.Tensor], x: torch.Tensor, vu_expert: torch.Tensor, if_expert: torch.Tensor
) -> torch.Tensor:
    """The layer as the paper writes it: both branches formed in full width, then Eq. 8-9."""
    scaling = float(data["scaling"])
    y = x @ data["W0"].T + data["bias"]
    out = []
    for sample in range(x.shape[0]):
        branches = [
            scaling * (x[sample] @ data["A"][e].T @ data["B"][e].T)
            for e in (vu_expert[sample], if_expert[sample])
        ]
        logits = torch.stack([branches[0] @ data["I_vu"], branches[1] @ data["I_if"]], dim=-1)
        alpha, beta = logits.softmax(-1).unbind(-1)
        out.append(y[sample] + alpha[:, None] * branches[0] + beta[:, None] * branches[1])
    return torch.stack(out)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_layer_gives_the_recorded_output_blocks_and_fusion_weights(name: str) -> None:
    data = _golden(name)
    context = _context(data, *data["x"].shape[:2])
    with routing(context):
        y = _bank(data)(data["x"])
    torch.testing.assert_close(y, data["y"], **VALUES)
    gate = context.trace["layer"]
    half = gate.shape[-1] // 2
    torch.testing.assert_close(gate[..., :half].sum(-1), data["fusion_alpha"], **VALUES)
    torch.testing.assert_close(gate[..., half:].sum(-1), data["fusion_beta"], **VALUES)
    vu_expert, if_expert = _experts(gate)
    assert vu_expert.tolist() == data["vu_expert"].tolist()
    assert if_expert.tolist() == data["if_expert"].tolist()


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_layer_gives_the_recorded_gradients(name: str) -> None:
    data = _golden(name)
    bank, x = _bank(data), data["x"].clone().requires_grad_()
    with routing(_context(data, *x.shape[:2])):
        loss = (bank(x) * data["P"]).sum()
    torch.testing.assert_close(loss, data["loss"].squeeze(), atol=1e-4, rtol=1e-5)
    loss.backward()
    blocks = bank.lora_blocks()
    torch.testing.assert_close(x.grad, data["gx"], **GRADIENTS)
    torch.testing.assert_close(torch.stack([b.A.grad for b in blocks]), data["gA"], **GRADIENTS)
    torch.testing.assert_close(torch.stack([b.B.grad for b in blocks]), data["gB"], **GRADIENTS)
    torch.testing.assert_close(bank.router.I_vu.grad, data["gI_vu"], **GRADIENTS)
    torch.testing.assert_close(bank.router.I_if.grad, data["gI_if"], **GRADIENTS)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_unchosen_blocks_get_the_recorded_exact_zeros(name: str) -> None:
    data = _golden(name)
    bank = _bank(data)
    with routing(_context(data, *data["x"].shape[:2])):
        (bank(data["x"]) * data["P"]).sum().backward()
    zero = [i for i, block in enumerate(bank.lora_blocks()) if not block.B.grad.any()]
    assert zero == [i for i in range(bank.num_blocks) if not data["gB"][i].any()]


@pytest.mark.parametrize("name", [*WITH_GRADIENTS, "fp16_base_fp32_adapter"])
def test_recorded_branches_are_the_mixture_under_the_recorded_one_hot_gate(name: str) -> None:
    data = _golden(name)
    bank, half = _bank(data), data["A"].shape[0] // 2
    z = data["x"] @ bank.down().T
    for key, chosen in (("vu_branch", slice(0, half)), ("if_branch", slice(half, None))):
        gate = torch.zeros_like(data["router_onehot"])
        gate[:, chosen] = data["router_onehot"][:, chosen]
        branch = bank.scaling * weigh_blocks(z, gate.unsqueeze(1), ranks=bank.ranks) @ bank.up().T
        tolerance = {"atol": 1e-4, "rtol": 1e-4} if name.startswith("fp16") else VALUES
        torch.testing.assert_close(branch, data[key], **tolerance)


def test_initial_state_equals_the_base_layer_and_halves_the_branches() -> None:
    data = _golden("linear_init_state")
    bank, context = _bank(data), _context(data, *data["x"].shape[:2])
    with routing(context):
        assert torch.equal(bank(data["x"]), bank.base(data["x"]))
    assert set(context.trace["layer"].unique().tolist()) == {0.0, 0.5}


def test_zero_instance_ties_are_won_by_the_first_block() -> None:
    data = _golden("linear_tie_zero_instance")
    context = _context(data, *data["x"].shape[:2])
    assert not data["x"][2].any()
    with routing(context):
        _bank(data)(data["x"])
    assert _experts(context.trace["layer"])[0][2] == 0


def test_top_1_routers_are_buffers_because_the_official_ones_get_no_gradient() -> None:
    data = _golden("linear_a")
    router = _bank(data).router
    assert data["router_has_grad"].tolist() == [0, 0]
    assert [name for name, _ in router.named_parameters()] == ["I_vu", "I_if"]
    assert [name for name, _ in router.named_buffers()] == ["R_vu", "R_if"]


def test_every_instruction_of_the_table_is_routed_as_recorded() -> None:
    data = _golden("ins_type_sweep")
    bank = _bank(data)
    for task in range(data["ins_emb"].shape[0]):
        context = _context(data, *data["x"].shape[:2], task=task)
        with routing(context):
            torch.testing.assert_close(bank(data["x"]), data["y"][task], **VALUES)
        vu_expert, if_expert = _experts(context.trace["layer"])
        assert if_expert.tolist() == data["if_expert"][task].tolist()
        assert vu_expert.tolist() == data["vu_expert"].tolist()


def test_samples_of_one_batch_may_have_different_instructions() -> None:
    data = _golden("ins_type_sweep")
    tasks = torch.tensor([0, 5, 7])
    context = _context(data, *data["x"].shape[:2], task=0)
    context.facts["instruction"] = data["ins_emb"][tasks]
    with routing(context):
        y = _bank(data)(data["x"])
    expected = torch.stack([data["y"][task, sample] for sample, task in enumerate(tasks)])
    torch.testing.assert_close(y, expected, **VALUES)


def _padded(data: dict[str, torch.Tensor], amount: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = data["x"]
    padding = data["pad_vector"].expand(x.shape[0], amount, -1)
    mask = torch.ones(x.shape[0], x.shape[1] + amount, dtype=torch.bool)
    mask[:, x.shape[1] :] = False
    return torch.cat([x, padding], dim=1), mask


@pytest.mark.parametrize("row", range(5))
def test_masked_statistics_do_not_depend_on_padding(row: int) -> None:
    data = _golden("right_padding")
    x, mask = _padded(data, int(data["n_pad"][row]))
    context = _context(data, *x.shape[:2])
    context.prompt_mask = mask
    with routing(context):
        y = _bank(data, statistics="prompt")(x)
    torch.testing.assert_close(y[:, : data["x"].shape[1]], data["y_real_positions"][0], **VALUES)
    assert _experts(context.trace["layer"])[0].tolist() == data["vu_expert"][0].tolist()


@pytest.mark.parametrize("row", range(5))
def test_statistics_over_all_positions_reproduce_the_official_dependence_on_padding(row: int) -> None:
    data = _golden("right_padding")
    x, mask = _padded(data, int(data["n_pad"][row]))
    context = _context(data, *x.shape[:2])
    context.prompt_mask = mask
    with routing(context):
        y = _bank(data, statistics="all")(x)
    torch.testing.assert_close(y[:, : data["x"].shape[1]], data["y_real_positions"][row], **VALUES)
    assert _experts(context.trace["layer"])[0].tolist() == data["vu_expert"][row].tolist()


@pytest.mark.parametrize("statistics", ["all", "prompt"])
def test_reroute_reproduces_the_official_decode_steps(statistics: str) -> None:
    data = _golden("decode_steps")
    bank = _bank(data, statistics=statistics, decode="reroute")
    context = _context(data, *data["x_prefill"].shape[:2])
    with routing(context):
        torch.testing.assert_close(bank(data["x_prefill"]), data["y_prefill"], **VALUES)
        for step, x in enumerate(data["x_step"]):
            torch.testing.assert_close(bank(x), data["y_step"][step], **VALUES)
            assert _experts(context.trace["layer"])[0].tolist() == data["vu_expert_step"][step].tolist()


def test_hold_keeps_the_prefills_blocks_while_decoding() -> None:
    data = _golden("decode_steps")
    bank, prefill = _bank(data), data["vu_expert_prefill"]
    moved = data["vu_expert_step"] != prefill
    assert moved.any()
    with routing(_context(data, *data["x_prefill"].shape[:2])):
        torch.testing.assert_close(bank(data["x_prefill"]), data["y_prefill"], **VALUES)
        for step, x in enumerate(data["x_step"]):
            y = bank(x)
            torch.testing.assert_close(y, _formed(data, x, prefill, data["if_expert"]), **VALUES)
            torch.testing.assert_close(y[~moved[step]], data["y_step"][step][~moved[step]], **VALUES)


def test_teacher_forcing_over_all_positions_gives_the_recorded_third_decision() -> None:
    data = _golden("decode_steps")
    x = torch.cat([data["x_prefill"], *data["x_step"]], dim=1)
    context = _context(data, *x.shape[:2])
    with routing(context):
        y = _bank(data, statistics="all")(x)
    torch.testing.assert_close(y, data["y_teacher_forced"], **VALUES)
    assert _experts(context.trace["layer"])[0].tolist() == data["vu_expert_teacher_forced"].tolist()


def test_training_on_the_prompts_mean_chooses_as_the_prefill_does() -> None:
    data = _golden("decode_steps")
    x = torch.cat([data["x_prefill"], *data["x_step"]], dim=1)
    context = _context(data, *x.shape[:2])
    context.prompt_mask[:, data["x_prefill"].shape[1] :] = False
    with routing(context):
        _bank(data)(x)
    assert _experts(context.trace["layer"])[0].tolist() == data["vu_expert_prefill"].tolist()


def test_half_base_with_float_adapter_gives_the_recorded_evaluation() -> None:
    data = _golden("fp16_base_fp32_adapter")
    bank, context = _bank(data), _context(data, *data["x"].shape[:2])
    bank.base.half()
    with routing(context):
        y = bank(data["x"].half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), data["y"], atol=4e-3, rtol=2e-3)
    vu_expert, if_expert = _experts(context.trace["layer"])
    assert vu_expert.tolist() == data["vu_expert"].tolist()
    assert if_expert.tolist() == data["if_expert"].tolist()
