"""MoELoRA: the layer against outputs of the official code, and what its router reads, trains and keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from prog_kit import mixed_batch
from stream_kit import fit, quick_data, small_method, snapshot
from torch import nn

from lit_cvit.adapters import LoRABank, RoutingContext, load_adapter_state, routing
from lit_cvit.methods import ContinualMethod, MoELoRA, SeqLoRA
from lit_cvit.methods.moe_lora import RouterInput, SoftmaxRouter

GOLDEN = Path(__file__).parents[2] / "golden"
LAYER = "decoder.0.mlp.up_proj"


def _golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"moelora_{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(np.array(value)) for key, value in data.items()}


def _bank(data: dict[str, torch.Tensor], routes: RouterInput = "token") -> LoRABank:
    num_blocks, rank, width = data["A"].shape
    base = nn.Linear(width, data["W0"].shape[0], bias="bias" in data).requires_grad_(False)
    base.weight.copy_(data["W0"])
    if "bias" in data:
        base.bias.copy_(data["bias"])
    router = SoftmaxRouter(width, num_blocks, routes)
    bank = LoRABank(base, "layer", scaling=float(data["scaling"]), router=router)
    state = {"layer.router.R": data["R"]}
    for i in range(num_blocks):
        bank.add_block(rank, torch.Generator())
        state |= {f"layer.blocks.{i}.A": data["A"][i], f"layer.blocks.{i}.B": data["B"][i]}
    load_adapter_state({"layer": bank}, state)
    return bank


@pytest.mark.parametrize("name", ["a", "b", "c_oneposition"])
def test_outputs_gates_and_gradients_are_those_of_the_official_code(name: str) -> None:
    data = _golden(name)
    bank = _bank(data)
    x = data["x"].clone().requires_grad_()
    context = RoutingContext(num_samples=len(x), trace={})
    with routing(context):
        y = bank(x)
    assert context.trace is not None
    torch.testing.assert_close(y, data["y"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(context.trace["layer"], data["router_prob"], atol=1e-6, rtol=1e-5)
    (y * data["P"]).sum().backward()
    blocks = bank.lora_blocks()
    assert isinstance(bank.router, SoftmaxRouter)
    assert x.grad is not None
    assert bank.router.R.grad is not None
    got = {
        "gx": x.grad,
        "gA": torch.stack([block.A.grad for block in blocks if block.A.grad is not None]),
        "gB": torch.stack([block.B.grad for block in blocks if block.B.grad is not None]),
        "gR": bank.router.R.grad,
    }
    for key, value in got.items():
        torch.testing.assert_close(value, data[key], atol=2e-5, rtol=1e-4)


def _gates(bank: LoRABank, x: torch.Tensor, context: RoutingContext) -> torch.Tensor:
    context.trace = {}
    with routing(context), torch.no_grad():
        bank(x)
    return context.trace["layer"]


def test_the_first_token_is_the_first_that_is_no_padding_and_its_gate_lasts_while_decoding() -> None:
    data = _golden("a")
    bank, x = _bank(data, "first_token"), data["x"]
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, :2] = False
    context = RoutingContext(num_samples=3, prompt_mask=mask)
    gates = _gates(bank, x, context)
    per_token = data["router_prob"]
    expected = torch.stack([per_token[0, 0], per_token[1, 2], per_token[2, 0]])
    torch.testing.assert_close(gates, expected.unsqueeze(1).expand(-1, 5, -1), atol=1e-6, rtol=1e-5)
    later = _gates(bank, torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(0)), context)
    assert torch.equal(later, gates[:, :1])
    with pytest.raises(ValueError, match="no prefill in this routing context"):
        _gates(bank, x[:, :1], RoutingContext(num_samples=3, prompt_mask=mask))


def test_outside_of_the_decoder_the_first_token_is_a_rows_first_position() -> None:
    data = _golden("a")
    bank = _bank(data, "first_token")
    bank.kind = "projector"
    context = RoutingContext(num_samples=2, row_to_sample={"projector": torch.tensor([0, 1, 1])})
    gates = _gates(bank, data["x"], context)
    expected = data["router_prob"][:, :1].expand(-1, 5, -1)
    torch.testing.assert_close(gates, expected, atol=1e-6, rtol=1e-5)


def test_the_experts_share_the_rank_and_one_expert_is_a_plain_lora(llava_folder: Path) -> None:
    """Its softmax over one block is 1, so it says what the same tensors say in SeqLoRA."""
    many = small_method(llava_folder, MoELoRA, num_experts=4)
    one, plain = small_method(llava_folder, MoELoRA, num_experts=1), small_method(llava_folder, SeqLoRA)
    for method in (many, one, plain):
        method.prepare()
        method.begin_stage(quick_data().stages(seed=0)[0])
        assert {bank.scaling for bank in method.banks.values()} == {2.0}
    assert {bank.ranks for bank in many.banks.values()} == {(8, 8, 8, 8)}
    with torch.no_grad():
        for name, tensor in plain.tensors().items():
            if name.endswith(".B"):
                tensor.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
            one.tensors()[name].copy_(tensor)
    logits = []
    for method in (one, plain):
        batch = mixed_batch(method, with_answers=True)
        with torch.no_grad(), routing(method.context(batch)):
            logits.append(method.backbone.answer_logits(batch).logits)
    assert torch.equal(*logits)


def test_experts_and_routers_train_on_in_every_stage_and_nothing_grows(
    llava_folder: Path, tmp_path: Path
) -> None:
    before: list[dict[str, torch.Tensor]] = []

    class Recording(MoELoRA):
        def end_stage(self, stage: object) -> None:
            before.append(snapshot(self))

    method = small_method(llava_folder, Recording, num_experts=4)
    fit(tmp_path, method, quick_data(), callbacks=[])
    assert before[0].keys() == before[1].keys()
    for name in (f"{LAYER}.router.R", f"{LAYER}.blocks.0.A", f"{LAYER}.blocks.3.B"):
        assert not torch.equal(before[0][name], before[1][name])


def _routers(method: ContinualMethod) -> list[torch.Tensor]:
    return [bank.router.R for bank in method.banks.values() if isinstance(bank.router, SoftmaxRouter)]


def test_routers_are_drawn_by_the_runs_seed_as_a_linear_layers_weight(llava_folder: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        method = small_method(llava_folder, MoELoRA)
        method.prepare()
        method.begin_stage(quick_data().stages(seed=seed)[0])
        drawn.append([R.detach().clone() for R in _routers(method)])
    assert all(torch.equal(one, other) for one, other in zip(drawn[0], drawn[1], strict=True))
    for R, other in zip(drawn[0], drawn[2], strict=True):
        assert not torch.equal(R, other)
        bound = R.shape[1] ** -0.5
        assert 0.8 * bound < R.abs().max() <= bound
    # Layers of one width have draws of their own.
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_a_rank_that_the_experts_do_not_divide_is_refused(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="model.rank must be a multiple of model.num_experts 5; got 32"):
        small_method(llava_folder, MoELoRA, num_experts=5)


def test_the_router_reads_the_input_before_dropout() -> None:
    data = _golden("a")
    bank = _bank(data)
    bank.dropout.p = 0.5
    context = RoutingContext(num_samples=len(data["x"]), trace={})
    with routing(context):
        bank.train()(data["x"])
    assert context.trace is not None
    torch.testing.assert_close(context.trace["layer"], data["router_prob"], atol=1e-6, rtol=1e-5)
