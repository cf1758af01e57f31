"""C-LoRA: its penalty against dense products, what it forms, and how often it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from penalty_kit import MICRO, Gradients, require_old_blocks, stages_of, step_gradients
from sizes_kit import LargestTensor
from stream_kit import fit, log_rows, quick_data, small_method
from torch import nn

from lit_cvit.adapters import LoRABank
from lit_cvit.methods import CLoRA, ContinualMethod, c_lora
from lit_cvit.methods.c_lora import interference

IN, OUT, SCALING, WEIGHT = 32, 24, 1.5, 40.0


def _filled(bank: LoRABank, seed: int = 0) -> LoRABank:
    """The bank with random blocks."""
    generator = torch.Generator().manual_seed(seed)
    for block in bank.lora_blocks():
        block.B.data.copy_(torch.randn(block.B.shape, generator=generator))
    return bank


def _bank(ranks: tuple[int, ...] = (3, 2, 2), dtype: torch.dtype = torch.float64) -> LoRABank:
    """A bank of which the last block trains."""
    bank = LoRABank(nn.Linear(IN, OUT).requires_grad_(False), "layer", scaling=SCALING, default_gate="ones")
    for number, rank in enumerate(ranks, start=1):
        bank.add_block(rank, torch.Generator().manual_seed(rank), trainable=number == len(ranks), dtype=dtype)
    return _filled(bank)


def _dense(bank: LoRABank) -> torch.Tensor:
    """The penalty as it is written."""
    *older, newest = [bank.scaling * block.B @ block.A for block in bank.lora_blocks()]
    return (torch.stack(older).sum(0) * newest).square().sum()


@pytest.mark.parametrize("size", [1, 5 * IN, OUT * IN])
def test_penalty_and_gradients_are_those_of_the_dense_products(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_lora, "SLICE", size)
    bank = _bank()
    newest = bank.block(-1)
    found = []
    for penalty in (interference, _dense):
        value = penalty(bank)
        found.append([value, *torch.autograd.grad(3 * value, [newest.A, newest.B])])
    assert found[1][0] > 1
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=1e-10)


def test_neither_pass_forms_more_than_a_slice_of_one_layers_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_lora, "SLICE", 8 * IN)
    banks = [_bank((2, 2)) for _ in range(3)]
    with LargestTensor() as sizes:
        torch.stack([interference(bank) for bank in banks]).sum().backward()
    assert all(bank.block(-1).A.grad is not None for bank in banks)
    assert sizes.elements == 8 * IN < OUT * IN


def _fill(method: ContinualMethod) -> None:
    """Old and new blocks that are not zero, the same in every fit."""
    for number, bank in enumerate(method.banks.values()):
        _filled(bank, number)
        for block in bank.lora_blocks():
            block.B.data.mul_(0.05)


@pytest.fixture(scope="module")
def without(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Gradients]:
    root = tmp_path_factory.mktemp("without")
    return step_gradients(llava_folder, root, CLoRA, MICRO[0], _fill, weight=0.0)[1]


@pytest.mark.parametrize("micro", MICRO)
def test_the_penalty_counts_once_a_step_whatever_the_accumulation(
    llava_folder: Path, tmp_path: Path, micro: int, without: list[Gradients]
) -> None:
    method, steps = step_gradients(llava_folder, tmp_path, CLoRA, micro, _fill, weight=WEIGHT)
    for name, bank in method.banks.items():
        newest = bank.block(-1)
        grads = torch.autograd.grad(WEIGHT * _dense(bank), [newest.A, newest.B])
        for part, expected in zip("AB", grads, strict=True):
            key = f"{name}.blocks.1.{part}"
            for step, plain in zip(steps, without, strict=True):
                size = float(plain[key].abs().max())
                assert float(expected.abs().max()) > 0.01 * size
                torch.testing.assert_close(
                    step[key] - plain[key], expected, atol=1e-4 * size + 1e-6, rtol=1e-3
                )


def test_a_larger_weight_makes_the_interference_smaller_and_is_logged(
    llava_folder: Path, tmp_path: Path
) -> None:
    measured = []
    for weight in (0.0, 1e4):
        method = small_method(llava_folder, CLoRA, weight=weight)
        data = quick_data(settings={"num_train": 16})
        trainer = fit(tmp_path / str(weight), method, data, callbacks=[])
        measured.append(sum(interference(bank).item() for bank in method.banks.values()))
        rows = log_rows(trainer.run)
        assert ["loss/interference" in row for row in rows] == [False] * 4 + [weight > 0] * 4
    # A new block is zero, and so is what it changes.
    assert rows[4]["loss/interference"] == 0 < rows[5]["loss/interference"]
    assert measured[1] < 0.9 * measured[0]


def test_old_blocks_stay_and_the_sum_of_all_answers(llava_folder: Path, tmp_path: Path) -> None:
    method, after = stages_of(llava_folder, tmp_path, CLoRA)
    require_old_blocks(method, after)
    assert {name.rsplit(".", 1)[1] for name in after[1]} == {"A", "B"}, "nothing but factors is stored"
    bank = method.banks["decoder.0.mlp.up_proj"]
    x = torch.randn(2, 3, bank.in_features, generator=torch.Generator().manual_seed(0))
    change = sum(bank.scaling * block.B @ block.A for block in bank.lora_blocks())
    torch.testing.assert_close(bank(x), bank.base(x) + x @ change.T, atol=1e-5, rtol=1e-4)
