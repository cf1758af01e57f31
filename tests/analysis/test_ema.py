"""The balance weight of LCIA: exact values, its range, and the update itself."""

from __future__ import annotations

import math

import torch

from lit_cvit.analysis.ema import (
    Groups,
    clamp_or_fallback,
    follow,
    layers_of,
    official_share,
    paper_share,
)


def test_the_published_share_is_two_times_one_plus_the_gradient_over_way_and_change() -> None:
    share = official_share(torch.tensor([4.0, 16.0]), torch.tensor([3.0, 1.0]), torch.tensor([8.0, 0.5]))
    assert share.tolist() == [2 * (1 + 3) / (4 * 8), 2 * (1 + 1) / (16 * 0.5)]


def test_the_papers_share_is_a_ratio_of_norms() -> None:
    assert paper_share(torch.tensor([1.0]), torch.tensor([4.0])).tolist() == [0.25]


def test_a_share_counts_strictly_between_zero_and_one() -> None:
    raw = torch.tensor([0.25, 0.0, 1.0, 3.0, -0.5, math.nan, math.inf], dtype=torch.float64)
    share, dynamic = clamp_or_fallback(raw, fallback=0.75)
    assert share.tolist() == [0.25] * 7
    assert dynamic.tolist() == [True] + [False] * 6


def test_the_average_moves_by_its_share_and_equal_values_keep_their_bits() -> None:
    average = torch.tensor([1.0, 0.1, 3.0])
    follow([average], [torch.tensor([2.0, 0.1, 1.0])], [torch.tensor(0.25)])
    assert average.tolist() == [1.25, torch.tensor(0.1).item(), 2.5]


def test_a_share_of_one_takes_the_value_and_a_16_bit_value_moves_a_32_bit_average() -> None:
    average = torch.zeros(2)
    follow([average], [torch.tensor([1.0, 3.0], dtype=torch.bfloat16)], [torch.tensor(1.0)])
    assert average.dtype == torch.float32
    assert average.tolist() == [1.0, 3.0]


def test_tensors_of_a_layer_differ_in_the_last_part_of_their_names() -> None:
    names = [
        "decoder.0.q.blocks.0.A",
        "decoder.0.q.blocks.0.B",
        "decoder.0.q.blocks.1.A",
        "projector.up.bias",
    ]
    layers = layers_of(names)
    assert layers == [[0, 1], [2], [3]]
    groups = Groups(layers, torch.device("cpu"))
    assert groups.sum(torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [3.0, 4.0, 8.0]
    assert groups.spread(torch.tensor([3.0, 4.0, 8.0])).tolist() == [3.0, 3.0, 4.0, 8.0]


def test_a_number_that_is_not_finite_stays_in_its_group() -> None:
    groups = Groups([[0, 2], [1]], torch.device("cpu"))
    assert groups.sum(torch.tensor([math.nan, 2.0, 1.0])).isnan().tolist() == [True, False]
