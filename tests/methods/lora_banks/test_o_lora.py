"""O-LoRA: layer and penalty against outputs of the official code, and how often the penalty counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from penalty_kit import MICRO, require_old_blocks, stages_of, step_gradients
from prog_kit import mixed_batch
from stream_kit import fit, log_rows, quick_data, small_method
from torch import nn

from lit_cvit.adapters import LoRABank, LoRABlock, RoutingContext, routing
from lit_cvit.methods import ContinualMethod, OLoRA
from lit_cvit.methods.o_lora import norms, overlap

GOLDEN = Path(__file__).parents[2] / "golden"


def _golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"olora_{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(np.array(value)) for key, value in data.items()}


def _begun(folder: Path, num_stages: int, **settings: object) -> ContinualMethod:
    method = small_method(folder, OLoRA, **settings)
    method.prepare()
    for stage in quick_data().stages(seed=0)[:num_stages]:
        method.begin_stage(stage)
    return method


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_layer_is_the_official_one_alone_in_training_and_summed_at_test(name: str) -> None:
    data = _golden(f"linear_{name}")
    newest = int(data["cur_task"])
    base = nn.Linear(data["W0"].shape[1], data["W0"].shape[0], bias="bias" in data).requires_grad_(False)
    base.weight.copy_(data["W0"])
    if "bias" in data:
        base.bias.copy_(data["bias"])
    bank = LoRABank(base, "layer", scaling=float(data["scaling"]), default_gate="ones")
    for i in range(newest + 1):
        bank.blocks.append(LoRABlock(data["A"][i], data["B"][i], trainable=i == newest))
    x = data["x"].clone().requires_grad_()
    torch.testing.assert_close(bank(x), data["y_eval"], atol=1e-5, rtol=1e-5)
    with routing(RoutingContext(num_samples=len(x), gate=torch.eye(newest + 1)[newest])):
        y = bank(x)
    torch.testing.assert_close(y, data["y_train"], atol=1e-5, rtol=1e-5)
    block = bank.block(newest)
    grads = torch.autograd.grad((y * data["P"]).sum(), [x, block.A, block.B])
    expected = [data["gx_train"], data["gA_train"][newest], data["gB_train"][newest]]
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


def test_the_penalty_is_the_official_one_and_does_not_reach_old_blocks() -> None:
    data = _golden("orth_loss_a")
    newest = int(data["cur_task"])
    layers = [
        [LoRABlock(A[i], torch.zeros(1, A.shape[1]), trainable=i == newest) for i in range(newest + 1)]
        for A in (data["A0"], data["A1"])
    ]
    penalty = overlap(layers)
    torch.testing.assert_close(penalty, data["penalty"], atol=0, rtol=1e-4)
    (float(data["coefficient"]) * penalty).backward()
    for blocks, want in zip(layers, (data["gA0"], data["gA1"]), strict=True):
        assert blocks[-1].A.grad is not None
        torch.testing.assert_close(blocks[-1].A.grad, want[newest], atol=1e-6, rtol=1e-5)
        assert [block.A.requires_grad for block in blocks] == [False] * newest + [True]


def test_the_norms_are_those_of_the_newest_blocks_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = [
        LoRABlock(torch.randn(2, 5, generator=generator), torch.randn(3, 2, generator=generator))
        for _ in range(3)
    ]
    layers = [blocks[:2], blocks[2:]]
    expected = sum(
        float(np.sqrt((part.detach().numpy() ** 2).sum())) for b in blocks[1:] for part in (b.A, b.B)
    )
    assert norms(layers).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("micro", MICRO)
def test_the_penalties_count_once_a_step_whatever_the_accumulation(
    llava_folder: Path, tmp_path: Path, micro: int
) -> None:
    """While B = 0 the language loss gives A no gradient, so what A has is the penalties'."""
    method, steps = step_gradients(llava_folder, tmp_path, OLoRA, micro, weight=0.7, norm_weight=0.3)
    for name, bank in method.banks.items():
        old, new = (block.A.detach().numpy() for block in bank.lora_blocks())
        expected = 0.7 * np.sign(new @ old.T) @ old + 0.3 * new / np.sqrt((new**2).sum())
        for gradients in steps:
            got = gradients[f"{name}.blocks.1.A"].numpy()
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-4)


def test_the_log_has_the_penalty_of_a_step_once(llava_folder: Path, tmp_path: Path) -> None:
    data = quick_data(batch_size=1, global_batch_size=4)
    method = small_method(llava_folder, OLoRA, rate=0.0, weight=0.7)
    rows = log_rows(fit(tmp_path, method, data, callbacks=[]).run)
    layers = [bank.lora_blocks() for bank in method.banks.values()]
    assert ["loss/overlap" in row for row in rows] == [False, False, True, True]
    for row in rows[2:]:
        assert row["loss/overlap"] == pytest.approx(0.7 * float(overlap(layers)), rel=1e-5)


@pytest.mark.parametrize("knob", [{"weight": 5.0}, {"norm_weight": 5.0}])
def test_a_larger_weight_makes_what_it_weighs_smaller(
    llava_folder: Path, tmp_path: Path, knob: dict[str, float]
) -> None:
    measured = []
    for settings in ({"weight": 0.0}, {"weight": 0.0, **knob}):
        method = small_method(llava_folder, OLoRA, **settings)
        fit(tmp_path, method, quick_data(), callbacks=[])
        layers = [bank.lora_blocks() for bank in method.banks.values()]
        measured.append(float(overlap(layers) if "weight" in knob else norms(layers)))
    assert measured[1] < 0.99 * measured[0]


def test_old_blocks_stay_and_new_ones_are_added(llava_folder: Path, tmp_path: Path) -> None:
    method, after = stages_of(llava_folder, tmp_path, OLoRA)
    require_old_blocks(method, after)


@pytest.mark.parametrize(("trained_with", "gate"), [("sum", None), ("own", [0.0, 1.0])])
def test_training_samples_go_through_the_sum_or_the_tasks_own_block_and_others_through_the_sum(
    llava_folder: Path, trained_with: str, gate: list[float] | None
) -> None:
    method = _begun(llava_folder, 2, trained_with=trained_with)
    facts = method.sample_facts(mixed_batch(method, with_answers=True))
    assert (facts["gate"].tolist() if facts else None) == gate
    assert method.eval().sample_facts(mixed_batch(method, with_answers=True)) == {}
    assert method.train().sample_facts(mixed_batch(method)) == {}
