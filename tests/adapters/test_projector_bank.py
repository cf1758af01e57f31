from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_cvit.adapters import (
    PRETRAINED,
    ProjectorBank,
    RoutingContext,
    load_strict,
    reinitialise,
    routing,
)


class _Merger(nn.Module):
    """Joins each two neighbouring patches, as the mergers of Qwen-VL models do for four."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x.view(-1, 6))


def _projector() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


def _bank(num_copies: int = 2, base: nn.Module | None = None) -> ProjectorBank:
    torch.manual_seed(100)
    bank = ProjectorBank(base or _projector())
    for seed in range(num_copies):
        generator = torch.Generator().manual_seed(seed)
        bank.add(initialise=lambda module, g=generator: reinitialise(module, g))
    return bank


def _context(keys: list[int], rows: list[int]) -> RoutingContext:
    return RoutingContext(
        num_samples=len(keys),
        facts={"projector": torch.tensor(keys)},
        row_to_sample={"projector": torch.tensor(rows)},
    )


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def test_each_row_of_a_mixed_batch_goes_through_its_samples_copy() -> None:
    # Sample 0 has no image, sample 1 has two rows (not neighbours), the others one.
    bank, x = _bank(), _x(4, 5, 3)
    keys, rows = [0, 1, 0, PRETRAINED], [1, 2, 3, 1]
    with routing(_context(keys, rows)):
        y = bank(x)
    expected = torch.stack([bank.projector(keys[sample])(x[i]) for i, sample in enumerate(rows)])
    torch.testing.assert_close(y, expected)


def test_uniform_batch_gives_the_copys_own_output() -> None:
    bank, x = _bank(), _x(2, 5, 3)
    with routing(_context([1, 1], [0, 1])):
        assert torch.equal(bank(x), bank.projector(1)(x))


def test_merger_of_several_patches_keeps_the_rows_together() -> None:
    bank, x = _bank(base=_Merger()), _x(8, 3)
    keys, rows = [1, 0], [0, 1, 1, 0]
    with routing(_context(keys, rows)):
        y = bank(x)
    expected = torch.cat([bank.projector(keys[s])(x[2 * i : 2 * i + 2]) for i, s in enumerate(rows)])
    torch.testing.assert_close(y, expected)


def test_copies_of_a_16_bit_projector_are_float32_with_its_values() -> None:
    bank = ProjectorBank(_projector().bfloat16())
    bank.add()
    bank.add(copy_from=0)
    for key in (0, 1):
        pairs = zip(bank.projector(key).parameters(), bank.base.parameters(), strict=True)
        assert all(
            copied.dtype == torch.float32 and torch.equal(copied, own.float()) for copied, own in pairs
        )
    assert {parameter.dtype for parameter in bank.base.parameters()} == {torch.bfloat16}


def test_a_copy_computes_in_float32_and_answers_in_the_type_of_its_input() -> None:
    bank, x = _bank(base=_projector().bfloat16()), _x(3, 5, 3).bfloat16()
    with routing(_context([1, 1, 1], [0, 1, 2])):
        uniform = bank(x)
    assert torch.equal(uniform, bank.projector(1)(x.float()).bfloat16())
    with routing(_context([0, PRETRAINED, 1], [0, 1, 2])):
        mixed = bank(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed[2], uniform[2])
    torch.testing.assert_close(mixed[1], bank.base(x[1]))
    mixed.float().sum().backward()
    assert {parameter.grad.dtype for parameter in bank.projector(0).parameters()} == {torch.float32}


def test_copies_of_a_float32_projector_give_what_they_gave_bit_for_bit() -> None:
    bank, x = _bank(), _x(2, 5, 3)
    bank.add()
    with routing(_context([2, 2], [0, 1])):
        assert torch.equal(bank(x), bank.base(x))
    with routing(_context([2, 2], [0, 1])), torch.autocast("cpu", dtype=torch.bfloat16):
        assert bank(x).dtype == torch.bfloat16
        assert torch.equal(bank(x), bank.base(x))


def test_only_the_chosen_copies_receive_a_gradient() -> None:
    bank = _bank(3)
    with routing(_context([0, 2], [0, 1])):
        bank(_x(2, 5, 3)).sum().backward()
    assert [copy_[0].weight.grad is not None for copy_ in bank.copies] == [True, False, True]
    assert all(parameter.grad is None for parameter in bank.base.parameters())


def test_copies_start_where_the_plan_puts_them() -> None:
    bank = _bank(1)
    same, fresh = bank.add(copy_from=0), bank.add()
    assert (same, fresh) == (1, 2)
    assert torch.equal(bank.projector(1)[0].weight, bank.projector(0)[0].weight)
    assert torch.equal(bank.projector(2)[0].weight, bank.base[0].weight)
    assert not torch.equal(bank.projector(0)[0].weight, bank.base[0].weight)


def test_copy_of_a_frozen_copy_trains_and_shares_nothing() -> None:
    bank = _bank(1)
    bank.freeze(0)
    before = bank.projector(0)[0].weight.clone()
    key = bank.add(copy_from=0)
    with torch.no_grad():
        bank.projector(key)[0].weight.zero_()
    assert all(parameter.requires_grad for parameter in bank.projector(key).parameters())
    assert torch.equal(bank.projector(0)[0].weight, before)


def test_freezing_a_copy_stops_it_from_training_and_keeps_its_bits() -> None:
    bank = _bank()
    before = copy.deepcopy(bank.projector(0).state_dict())
    bank.freeze(0)
    assert not any(p.requires_grad for p in bank.projector(0).parameters())
    assert all(torch.equal(v, before[k]) for k, v in bank.projector(0).state_dict().items())
    bank.unfreeze(0)
    assert all(p.requires_grad for p in bank.projector(0).parameters())


def test_pretrained_projector_never_trains() -> None:
    bank = _bank()
    assert not any(p.requires_grad for p in bank.base.parameters())
    with pytest.raises(ValueError, match="never trains"):
        bank.unfreeze(PRETRAINED)


def test_reinitialise_follows_the_generator() -> None:
    one, other = _projector(), _projector()
    for module in (one, other):
        reinitialise(module, torch.Generator().manual_seed(3))
    bound, same = 3**-0.5, torch.Generator().manual_seed(3)
    assert torch.equal(one[0].weight, torch.empty(4, 3).uniform_(-bound, bound, generator=same))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_reinitialise_refuses_layers_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"cannot draw layer '1' \(Conv2d\)"):
        reinitialise(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1)), torch.Generator())


def test_state_goes_through_safetensors_under_canonical_names(tmp_path: Path) -> None:
    source, target = _bank(), _bank()
    with torch.no_grad():
        source.projector(1)[2].bias.fill_(7.0)
    save_file(source.projector_state(), tmp_path / "projector.safetensors")
    load_strict(target.projector_state(), load_file(tmp_path / "projector.safetensors"))
    assert "projector.copies.1.2.bias" in target.projector_state()
    for name, value in source.projector_state().items():
        assert torch.equal(target.projector_state()[name], value)


def test_float32_state_beside_a_16_bit_projector_goes_through_safetensors(tmp_path: Path) -> None:
    source, target = (_bank(1, _projector().bfloat16()) for _ in range(2))
    with torch.no_grad():
        source.projector(0)[2].bias.fill_(1 + 2**-20)
    save_file(source.projector_state(), tmp_path / "projector.safetensors")
    load_strict(target.projector_state(), load_file(tmp_path / "projector.safetensors"))
    assert target.projector(0)[2].bias.tolist() == [1 + 2**-20] * 2


def test_state_of_another_number_of_copies_is_refused() -> None:
    with pytest.raises(ValueError, match="4 unexpected"):
        load_strict(_bank(1).projector_state(), _bank(2).projector_state())


def test_bypass_uses_the_pretrained_projector() -> None:
    bank, x = _bank(), _x(2, 5, 3)
    with routing(RoutingContext(num_samples=2, bypass=True)):
        assert torch.equal(bank(x), bank.base(x))


def test_unknown_key_is_refused() -> None:
    with routing(_context([0, 5], [0, 1])), pytest.raises(ValueError, match="no copy 5; allowed are -1 to 1"):
        _bank()(_x(2, 5, 3))


def test_rows_that_do_not_divide_are_refused() -> None:
    with (
        routing(_context([0, 1], [0, 1])),
        pytest.raises(ValueError, match="got 3 rows, no multiple of the 2"),
    ):
        _bank()(_x(3, 5, 3))


def test_missing_row_map_is_refused() -> None:
    context = _context([0, 1], [0, 1])
    context.row_to_sample = {}
    with routing(context), pytest.raises(ValueError, match="no row_to_sample map for kind 'projector'"):
        _bank()(_x(2, 5, 3))
