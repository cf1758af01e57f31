"""Products with several blocks: as those with their joined weights, and no copy of these is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_cvit.adapters.products import add_up, project_down

RANKS = (2, 3, 1)
IN, OUT = 5, 7


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _downs(trains: Sequence[bool]) -> list[Tensor]:
    return [_randn(r, IN, seed=r).requires_grad_(t) for r, t in zip(RANKS, trains, strict=True)]


def _ups(trains: Sequence[bool]) -> list[Tensor]:
    return [_randn(OUT, r, seed=r + 9).requires_grad_(t) for r, t in zip(RANKS, trains, strict=True)]


def _gradients(make: Callable[[], Tensor], of: Sequence[Tensor]) -> list[Tensor]:
    out = make()
    wanted = [each for each in of if each.requires_grad]
    return [out.detach(), *torch.autograd.grad((out.float() * _randn(*out.shape, seed=4)).sum(), wanted)]


def _plain_down(x: Tensor, downs: Sequence[Tensor]) -> Tensor:
    return F.linear(x, torch.cat(list(downs)))


def _plain_up(y: Tensor, weighted: Tensor, ups: Sequence[Tensor]) -> Tensor:
    return y + F.linear(weighted * 0.5, torch.cat(list(ups), dim=1))


ALL, NEWEST, GAP, NONE = (True,) * 3, (False, False, True), (True, False, True), (False,) * 3


@pytest.mark.parametrize("trains", [ALL, NEWEST, GAP, NONE])
def test_products_and_gradients_are_those_of_the_joined_weights(trains: tuple[bool, ...]) -> None:
    x, downs = _randn(2, 4, IN, seed=0).requires_grad_(), _downs(trains)
    found = _gradients(lambda: project_down(x, downs), [x, *downs])
    for one, other in zip(found, _gradients(lambda: _plain_down(x, downs), [x, *downs]), strict=True):
        torch.testing.assert_close(one, other)
    y, weighted = _randn(2, 4, OUT, seed=1).requires_grad_(), _randn(2, 4, 6, seed=2).requires_grad_()
    ups = _ups(trains)
    given = [y, weighted, *ups]
    found = _gradients(lambda: add_up(y, weighted, ups, scaling=0.5), given)
    for one, other in zip(found, _gradients(lambda: _plain_up(y, weighted, ups), given), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wide_x", [True, False])
def test_under_autocast_they_are_those_of_the_joined_weights_in_its_type(wide_x: bool) -> None:
    x, downs = _randn(2, 4, IN, seed=0), _downs(NEWEST)
    x = (x if wide_x else x.bfloat16()).requires_grad_()
    y = _randn(2, 4, OUT, seed=1).bfloat16().requires_grad_()
    weighted, ups = _randn(2, 4, 6, seed=2).requires_grad_(), _ups(ALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        down = _gradients(lambda: project_down(x, downs), [x, *downs])
        plain_down = _gradients(lambda: _plain_down(x, downs), [x, *downs])
        up = _gradients(lambda: add_up(y, weighted, ups, scaling=0.5), [y, weighted, *ups])
        plain_up = _gradients(lambda: _plain_up(y, weighted, ups), [y, weighted, *ups])
    for one, other in zip(down + up, plain_down + plain_up, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=3e-2, atol=6e-2)


def test_the_backward_pass_keeps_no_copy_of_the_blocks() -> None:
    downs, ups, kept = _downs(ALL), _ups(ALL), []
    x, y = _randn(2, 4, IN, seed=0).requires_grad_(), _randn(2, 4, OUT, seed=1).requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = project_down(x, downs)
        add_up(y, z, ups, scaling=0.5)
    assert set(kept) == {each.data_ptr() for each in (x, z, *downs, *ups)}


def test_a_checkpointed_layer_has_the_same_gradients() -> None:
    x, downs, ups = _randn(2, 4, IN, seed=0).requires_grad_(), _downs(GAP), _ups(GAP)

    def layer(x: Tensor) -> Tensor:
        return add_up(x[..., :1].expand(2, 4, OUT), project_down(x, downs), ups, scaling=0.5)

    given = [x, *downs, *ups]
    plain = _gradients(lambda: layer(x), given)
    again = _gradients(lambda: checkpoint(layer, x, use_reentrant=False), given)
    assert all(torch.equal(one, other) for one, other in zip(again, plain, strict=True))
