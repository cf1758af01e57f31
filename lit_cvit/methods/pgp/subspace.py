"""Bases of the subspaces that inputs lie in, extended from task to task, as gradient projection memory does.

Source: Saha et al., "Gradient Projection Memory for Continual Learning" (arXiv 2103.09762), Eq. 8-9.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Directions below this share of all inputs' length are rounding.
_NOTHING = 1e-6


@torch.no_grad()
def extended(basis: Tensor, rows: Tensor, energy: float) -> Tensor:
    """A basis with as few more directions as hold a share of the squared length of new inputs.

    The directions are the leading singular vectors of what the basis leaves of the inputs, each with its
    largest entry positive.

    Args:
        basis: V (d, k), orthonormal columns; k may be 0.
        rows: (n, d) inputs.
        energy: The share, 0 to 1.

    Returns:
        (d, k'), k' >= k, of the type of `basis`; the first k columns are unchanged.
    """
    inputs, known = rows.double(), basis.to(rows.device, torch.float64)
    rest = without(inputs, known)
    total, left = inputs.square().sum(), rest.square().sum()
    _, sizes, directions = torch.linalg.svd(rest, full_matrices=False)
    held = total - left + torch.cat([sizes.new_zeros(1), sizes.square().cumsum(0)])
    wanted = int((held < energy * total).sum())
    possible = int((sizes > _NOTHING * total.sqrt()).sum())
    chosen = directions[: min(wanted, possible, basis.shape[0] - basis.shape[1])]
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True)) if len(chosen) else chosen[:, :1]
    return torch.cat([basis, (chosen * largest.sign()).T.to(basis)], dim=1)


def without(vectors: Tensor, basis: Tensor) -> Tensor:
    """Vectors (..., d) less their part in the span of a basis V (d, k): x - (x V) V^T."""
    return vectors - (vectors @ basis) @ basis.T
