"""Tensors with numbers that are not finite are found by name, whatever their type."""

from __future__ import annotations

import math

import pytest
import torch

from lit_cvit.utils.finite import is_finite, not_finite, require_finite

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 999])
def test_one_number_that_is_not_finite_is_found(kind: torch.dtype, value: float, place: int) -> None:
    tensor = torch.zeros(1000, dtype=kind)
    assert is_finite(tensor)
    tensor[place] = value
    assert not is_finite(tensor)
    assert not is_finite(tensor.view(10, 100).T)


@pytest.mark.parametrize("kind", TYPES)
def test_the_largest_numbers_of_a_type_are_finite(kind: torch.dtype) -> None:
    largest = torch.finfo(kind).max
    assert is_finite(torch.tensor([largest, -largest], dtype=kind))


def test_types_of_8_bits_whole_numbers_and_empty_tensors_are_read_too() -> None:
    assert is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn))
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.zeros(0, 4))
    assert is_finite(torch.empty(2, device="meta"))


def test_they_are_refused_with_the_first_name_and_their_number() -> None:
    tensors = {"a": torch.zeros(2), "b": torch.tensor([math.inf]), "c": torch.tensor([math.nan])}
    assert not_finite(tensors) == ["b", "c"]
    with pytest.raises(ValueError, match="^the file: b and 1 more .*; fetch it again$"):
        require_finite(tensors, place="the file", fix="fetch it again")
    require_finite({"a": tensors["a"]}, place="the file", fix="")
