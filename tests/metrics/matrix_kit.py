"""Score matrices for the tests of this folder."""

from __future__ import annotations

import torch


def matrix(rows: list[list[float | None]]) -> torch.Tensor:
    """A float64 score matrix, NaN where a cell is None."""
    return torch.tensor(
        [[float("nan") if x is None else x for x in row] for row in rows], dtype=torch.float64
    )
