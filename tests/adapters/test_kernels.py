from __future__ import annotations

import pytest
import torch

from lit_cvit.adapters.kernels import (
    adaptive_fusion,
    expand_gate,
    fusion_directions,
    gate_to_rows,
    sample_means,
    top_k_gate,
    weigh_blocks,
    weigh_sums,
)
from lit_cvit.adapters.products import add_up


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
def test_expand_gate_repeats_each_block_over_its_own_rank(shape: tuple[int, ...]) -> None:
    gate = _randn(*shape)
    expected = torch.stack([gate[..., i] for i in (0, 1, 1, 1, 2, 2)], dim=-1)
    assert torch.equal(expand_gate(gate, (1, 3, 2)), expected)


def test_expand_gate_with_equal_ranks_repeats_in_block_order() -> None:
    assert expand_gate(torch.tensor([1.0, 2.0]), (2, 2)).tolist() == [1.0, 1.0, 2.0, 2.0]


def test_expand_gate_refuses_another_number_of_blocks() -> None:
    with pytest.raises(ValueError, match="the gate has 3 blocks, the bank has 2"):
        expand_gate(torch.ones(3), (4, 4))


def test_sample_gate_follows_the_rows_of_a_sample() -> None:
    gate = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows = gate_to_rows(gate, torch.tensor([1, 1, 0]))
    assert rows.tolist() == [[[0.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]]


def test_gate_of_four_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got a tensor of shape \(1, 2, 3, 4\)"):
        gate_to_rows(torch.ones(1, 2, 3, 4), None)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 3), (2, 5, 3)])
def test_mixture_equals_the_sum_over_blocks(shape: tuple[int, ...]) -> None:
    ranks, scaling = (2, 1, 4), 0.5
    z, up, gate = _randn(2, 5, 7), _randn(6, 7, seed=1), _randn(*shape, seed=2)
    expected = torch.zeros(2, 5, 6)
    start = 0
    for block, rank in enumerate(ranks):
        part = z[..., start : start + rank] @ up[:, start : start + rank].T
        expected += scaling * gate[..., block].unsqueeze(-1) * part
        start += rank
    found = add_up(torch.zeros(2, 5, 6), weigh_blocks(z, gate, ranks=ranks), [up], scaling=scaling)
    torch.testing.assert_close(found, expected)


def test_mixture_without_a_gate_weighs_all_blocks_one() -> None:
    z = _randn(2, 5, 4)
    without = weigh_blocks(z, None, ranks=(2, 2))
    assert torch.equal(without, weigh_blocks(z, torch.ones(2), ranks=(2, 2)))


@pytest.mark.parametrize("shape", [(3,), (2, 1, 3), (2, 5, 3)])
def test_product_of_sums_has_every_cross_term(shape: tuple[int, ...]) -> None:
    z, up, gate = _randn(2, 5, 6), _randn(7, 6, seed=1), _randn(*shape, seed=2)
    expected = torch.zeros(2, 5, 7)
    for i in range(3):
        for j in range(3):
            part = z[..., 2 * j : 2 * j + 2] @ up[:, 2 * i : 2 * i + 2].T
            expected += 0.5 * (gate[..., i] * gate[..., j]).unsqueeze(-1) * part
    found = add_up(torch.zeros(2, 5, 7), weigh_sums(z, gate, ranks=(2, 2, 2)), [up], scaling=0.5)
    torch.testing.assert_close(found, expected)


def test_product_of_sums_without_a_gate_weighs_all_blocks_one() -> None:
    z = _randn(2, 5, 4)
    without = weigh_sums(z, None, ranks=(2, 2))
    assert torch.equal(without, weigh_sums(z, torch.ones(2), ranks=(2, 2)))


def test_of_one_block_alone_both_mixtures_give_the_same_bits() -> None:
    z, alone = _randn(2, 5, 6), torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.equal(weigh_sums(z, alone, ranks=(2, 2, 2)), weigh_blocks(z, alone, ranks=(2, 2, 2)))


def test_product_of_sums_refuses_blocks_of_different_ranks() -> None:
    with pytest.raises(ValueError, match=r"needs blocks of one rank, got ranks \(1, 3\)"):
        weigh_sums(_randn(1, 1, 4), None, ranks=(1, 3))


def test_sample_mean_counts_unmasked_positions_only() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    means = sample_means(x, mask, row_to_sample=None, num_samples=2)
    assert means.tolist() == [[2.0], [8.0]]


def test_sample_mean_weighs_positions_not_rows() -> None:
    # Sample 1 has two rows with 1 and 3 counted positions: (10 + 1 + 2 + 3) / 4.
    x = torch.tensor([[[4.0], [6.0], [8.0]], [[10.0], [0.0], [0.0]], [[1.0], [2.0], [3.0]]])
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, True]])
    means = sample_means(x, mask, row_to_sample=torch.tensor([0, 1, 1]), num_samples=2)
    assert means.tolist() == [[6.0], [4.0]]


def test_sample_mean_of_flattened_patches_counts_each_row_once() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0]])
    means = sample_means(x, None, row_to_sample=torch.tensor([0, 0, 0, 2]), num_samples=3)
    assert means.tolist() == [[2.0], [0.0], [10.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sample_mean_of_another_type_is_that_of_float32(dtype: torch.dtype) -> None:
    x = _randn(2, 5, 3).bfloat16()
    mask = torch.tensor([[True, True, False, True, True], [False, False, True, False, True]])
    expected = sample_means(x.float(), mask, row_to_sample=None, num_samples=2)
    found = sample_means(x.to(dtype), mask, row_to_sample=None, num_samples=2)
    torch.testing.assert_close(found.float(), expected)


@pytest.mark.parametrize("wide", ["y", "up"])
def test_a_product_of_another_type_is_added_in_the_wider_one(wide: str) -> None:
    y, weighted, up = _randn(2, 5, 6), _randn(2, 5, 4, seed=1), _randn(6, 4, seed=2)
    if wide == "y":
        weighted, up = weighted.bfloat16(), up.bfloat16()
    else:
        y = y.bfloat16()
    found = add_up(y, weighted, [up], scaling=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, y + 0.5 * weighted @ up.T, rtol=1e-2, atol=1e-2)


def test_autocast_does_not_round_a_wider_output() -> None:
    y, weighted, up = _randn(2, 5, 6), _randn(2, 5, 4, seed=1), _randn(6, 4, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(add_up(y, torch.zeros_like(weighted), [up], scaling=0.5), y)
        assert add_up(y.bfloat16(), weighted, [up], scaling=0.5).dtype == torch.bfloat16


def test_sample_mean_of_half_precision_does_not_overflow() -> None:
    x = torch.full((1, 3000, 1), 60.0, dtype=torch.float16)
    means = sample_means(x, None, row_to_sample=None, num_samples=1)
    assert means.dtype == torch.float32
    assert means.tolist() == [[60.0]]


def test_top_1_gate_is_exactly_one_and_the_first_index_wins_ties() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [-3.0, 2.0, 2.0], [1e-30, 0.0, -1.0]])
    assert top_k_gate(logits, 1).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_top_2_gate_is_the_softmax_over_the_kept_logits() -> None:
    gate = top_k_gate(torch.tensor([[1.0, 5.0, 3.0, 3.0]]), 2)
    expected = torch.tensor([5.0, 3.0]).softmax(0)
    assert gate[0].tolist() == [0.0, expected[0].item(), expected[1].item(), 0.0]


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the number of blocks 3, got {k}"):
        top_k_gate(torch.zeros(2, 3), k)


def test_fusion_in_rank_space_equals_fusion_of_formed_branches() -> None:
    scaling = 2.0
    z_vu, z_if = _randn(3, 5, 4, seed=1), _randn(3, 5, 6, seed=2)
    up_vu, up_if = _randn(7, 4, seed=3), _randn(7, 6, seed=4)
    gate_vu, gate_if = _randn(3, 4, seed=5), _randn(3, 6, seed=6)
    i_vu, i_if = _randn(7, seed=7), _randn(7, seed=8)
    branches = [
        scaling * (gate.unsqueeze(1) * z) @ up.T
        for gate, z, up in ((gate_vu, z_vu, up_vu), (gate_if, z_if, up_if))
    ]
    expected = torch.stack([branches[0] @ i_vu, branches[1] @ i_if], dim=-1).softmax(-1)
    directions = fusion_directions(
        torch.stack([i_vu, i_if]),
        torch.cat([up_vu, up_if], dim=1),
        torch.cat([gate_vu, gate_if], dim=-1),
        num_first=4,
        scaling=scaling,
    )
    weights = adaptive_fusion(torch.cat([z_vu, z_if], dim=-1), directions)
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)
