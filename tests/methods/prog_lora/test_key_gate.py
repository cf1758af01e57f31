"""The gate by keys: Eq. 5, 6 and 8 of ProgLoRA against plain transcriptions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_cvit.methods.prog_lora.key_gate import KeyGate, pool_tokens, recall_divergence

WIDTH, HIDDEN = 6, 4
QUERIES = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


def gate(num_keys: int, *, temperature: float = 1.0, key_std: float = 0.5) -> KeyGate:
    generator = torch.Generator().manual_seed(0)
    made = KeyGate(WIDTH, HIDDEN, temperature=temperature, key_std=key_std, generator=generator)
    for _ in range(num_keys):
        made.add_key(generator)
    return made


def test_weights_are_those_of_equations_5_and_6() -> None:
    made = gate(3, temperature=0.7)
    with torch.no_grad():
        made.norm.weight.uniform_(0.5, 2.0)
        made.norm.bias.uniform_(-1.0, 1.0)
        for row, query in enumerate(QUERIES):
            inner = made.down.weight @ query + made.down.bias
            outer = made.up.weight @ (inner / (1 + torch.exp(-inner))) + made.up.bias
            normal = (outer - outer.mean()) / torch.sqrt(outer.var(correction=0) + 1e-5)
            h = normal * made.norm.weight + made.norm.bias
            scores = [math.exp(float(h @ key) / 0.7) for key in made.keys]
            expected = torch.tensor(scores) / sum(scores)
            torch.testing.assert_close(made(QUERIES)[row], expected, atol=1e-6, rtol=1e-5)


def test_a_single_key_has_weight_one_exactly() -> None:
    assert gate(1)(QUERIES).tolist() == [[1.0]] * 3


def test_a_new_key_leaves_the_projector_and_older_keys() -> None:
    one, two = gate(1).state_dict(), gate(2).state_dict()
    assert list(two) == [*one, "keys.1"]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_keys_have_the_deviation_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    made = KeyGate(20000, 1, temperature=1.0, key_std=0.02, generator=generator)
    made.add_key(generator)
    assert float(made.keys[0].detach().std()) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("num_keys", "old_keys", "expected"),
    [
        (1, False, []),
        (1, True, []),
        (2, False, ["projector", "keys.1"]),
        (3, False, ["projector", "keys.2"]),
        (3, True, ["projector", "keys.0", "keys.1", "keys.2"]),
    ],
)
def test_what_trains_is_the_projector_and_the_newest_key(
    num_keys: int, old_keys: bool, expected: list[str]
) -> None:
    made = gate(num_keys)
    made.train_only(old_keys=old_keys)
    names = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    projector = [name for name in names if not name.startswith("keys")]
    assert len(projector) == (6 if "projector" in expected else 0)
    assert [name for name in names if name.startswith("keys")] == [n for n in expected if n != "projector"]


def test_max_pooling_takes_each_coordinates_largest_counted_value() -> None:
    tokens = torch.tensor([[[1.0, -9.0], [2.0, -8.0], [7.0, 7.0]], [[3.0, 3.0], [0.0, 5.0], [-1.0, 9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pool_tokens(tokens, mask, "max").tolist() == [[2.0, -8.0], [3.0, 9.0]]
    assert pool_tokens(tokens, mask, "mean").tolist() == [
        [1.5, -8.5],
        [pytest.approx(2 / 3), pytest.approx(17 / 3)],
    ]


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_padding_of_any_value_is_ignored_and_no_token_gives_zeros(pool: Any) -> None:
    tokens = torch.full((2, 2, 3), float("nan"))
    tokens[0, 0] = torch.tensor([-1.0, 2.0, -3.0])
    mask = torch.tensor([[True, False], [False, False]])
    assert pool_tokens(tokens, mask, pool).tolist() == [[-1.0, 2.0, -3.0], [0.0, 0.0, 0.0]]


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool must be 'max' or 'mean', got 'first'"):
        pool_tokens(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), "first")  # type: ignore[arg-type]


NOW = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
STORED = torch.tensor([[0.6, 0.4], [1.0, 0.0]])


def divergences(direction: Any, stored: Tensor = STORED) -> list[float]:
    return recall_divergence(NOW.log(), stored, direction).tolist()


def test_forward_is_the_finite_divergence_from_the_padded_stored_gates() -> None:
    first = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.3)
    assert divergences("forward") == pytest.approx([first, math.log(1 / 0.1)], rel=1e-5)


def test_reverse_adds_a_hundred_millionth_to_the_padded_stored_gates() -> None:
    expected = []
    for now, stored in zip(NOW.tolist(), [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0]], strict=True):
        expected.append(sum(q * (math.log(q) - math.log(p + 1e-8)) for q, p in zip(now, stored, strict=True)))
    assert divergences("reverse") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gates_that_did_not_change_do_not_diverge(direction: Any) -> None:
    assert divergences(direction, NOW) == pytest.approx([0.0, 0.0], abs=1e-6)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_direction must be 'forward' or 'reverse', got 'both'"):
        divergences("both")


def test_under_autocast_the_gate_stays_in_float32() -> None:
    made = gate(3)
    expected = made(QUERIES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = made(QUERIES)
    assert torch.equal(got, expected)
