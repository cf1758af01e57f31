"""Which entries of a layer's change stay, and how they make up for those that go; one layer, no model.

The change D = W_ft - W_pre is gone through by columns, in blocks of 128. In a block an entry's importance is

    omega z(|D|) + (1 - omega) z(W_ft^2 / d^2),

z being the z-score among the row's entries in the block, d the diagonal of the upper Cholesky factor U of the
inverse Hessian, U'U = H^-1. The most important of all the block's entries stay. One that goes, of value e,
changes the later ones of its row by -(e / d) times U's row: what then goes on the least in (D x)^2, as in
Optimal Brain Surgeon by way of SparseGPT (arXiv 2301.00774).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Compensation = Literal["obs", "published", "none"]
COLUMNS = 128
DAMPING = 0.01
# By which a later entry is changed, per unit of what goes.
_SIGNS = {"obs": -1.0, "published": 1.0, "none": 0.0}


def num_kept(rows: int, columns: int, kept: float) -> int:
    """Entries of a layer's change that stay, the same share of every block."""
    return sum(_kept_of(rows * (end - start), kept) for start, end in _blocks(columns))


def tailored(
    change: Tensor,
    before: Tensor,
    hessian: Tensor,
    *,
    kept: float,
    omega: float = 0.8,
    compensation: Compensation = "obs",
) -> tuple[Tensor, Tensor]:
    """Reduce a layer's change to its most important entries.

    Args:
        change: (out, in) D; changed in place.
        before: (out, in) W_pre, to which the other entries go back.
        hessian: (in, in) H, proportional to the sum of x x' over the layer's inputs; changed in place.
        kept: Share of the entries that stays.
        omega: Share of the change's own size in the importance.
        compensation: Whether the entries that stay make up for the others; `published` has the official
            code's sign, which adds to the error.

    Returns:
        The change of the entries that stay, and their mask, (out, in) each.
    """
    upper, sign = _inverse_factor(hessian), _SIGNS[compensation]
    mask = torch.zeros_like(change, dtype=torch.bool)
    original = change.clone()
    for start, end in _blocks(change.shape[1]):
        own, factor = change[:, start:end], upper[start:end, start:end]
        scores = omega * _z_scores(original[:, start:end].abs())
        scores += (1 - omega) * _z_scores((before[:, start:end] + own).square() / factor.diag().square())
        chosen = mask[:, start:end]
        chosen.copy_(_largest(scores, _kept_of(scores.numel(), kept)))
        errors = torch.zeros_like(own)
        for column in range(end - start):
            gone = own[:, column].masked_fill(chosen[:, column], 0)
            errors[:, column] = gone / factor[column, column]
            later = own[:, column + 1 :]
            later.addr_(errors[:, column], factor[column, column + 1 :], alpha=sign)
        change[:, end:].addmm_(errors, upper[start:end, end:], alpha=sign)
    return change.masked_fill_(~mask, 0), mask


def _blocks(columns: int) -> list[tuple[int, int]]:
    return [(start, min(start + COLUMNS, columns)) for start in range(0, columns, COLUMNS)]


def _kept_of(size: int, kept: float) -> int:
    return max(1, round(kept * size))


def _inverse_factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of H, damped by a share of its mean diagonal."""
    diagonal = hessian.diagonal()
    # Inputs that are always zero.
    diagonal[diagonal == 0] = 1
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def _z_scores(values: Tensor) -> Tensor:
    """By row; zero where all of a row's values are equal."""
    centred = values - values.mean(1, keepdim=True)
    spread = values.std(1, keepdim=True, correction=min(1, values.shape[1] - 1))
    return centred / spread.clamp(min=torch.finfo(values.dtype).tiny)


def _largest(scores: Tensor, count: int) -> Tensor:
    """A mask of so many of the largest scores; the first of equal ones."""
    order = scores.flatten().sort(descending=True, stable=True).indices[:count]
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order] = True
    return mask.view_as(scores)
