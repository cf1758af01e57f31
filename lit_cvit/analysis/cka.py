"""Centred kernel alignment (CKA) between tasks and between stages, layer by layer.

Sources: HiDe-LLaVA (arXiv 2503.12941, Sec. 4.1, Fig. 1, App. B; Ghy0501/HiDe-LLaVA@4dd0793, test_CKA_sim.py)
and Kornblith et al. (arXiv 1905.00414). For two sets of n vectors with kernel matrices K and L, and
H = I - 11^T / n:

    HSIC(K, L) = sum((H K H) * (H L H)),    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

The paper takes the linear kernel, K = X X^T; its published code plots the RBF kernel,
K = exp(-D / (2 sigma^2)), with D the squared distances of the vectors and sigma^2 the median of those that
are not 0, for each set its own. The factor 1 / (n - 1)^2 of the paper cancels. Both kernels follow from D
alone, since -H D H / 2 = H X X^T H; so D is all that a comparison needs of a set of vectors.

Row i of one set is compared with row i of the other. Between two stages that is right: the rows are the same
samples. Rows of two tasks are different samples (as in the published code), and any order of them is as good
as any other. Over all orders CKA has the mean

    tr(H K H) tr(H L H) / ((n - 1) sqrt(HSIC(K, K) HSIC(L, L))),

which reads only in how many directions each task's vectors vary; `chance_similarities` gives it, to be held
against the value found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["linear", "rbf"]
At = Literal["layer", "down_proj"]
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")
# What is compared: outputs of decoder layers, or of their `mlp.down_proj`.
PLACES: tuple[At, ...] = ("layer", "down_proj")
# CKA of any two sets of two vectors is 1.
MIN_ROWS = 3
# Ours; the paper reads its layer off the figure.
THRESHOLD = 0.05
RULE = (
    "the layer at which the mean CKA of two different tasks falls most below the layer before it, "
    "if it falls by more than the threshold"
)


def squared_distances(vectors: Tensor) -> Tensor:
    """Squared Euclidean distances between the vectors of a set.

    Args:
        vectors: (..., n, d), for example one set per layer.

    Returns:
        (..., n, n) in float64; exactly 0 between equal vectors.
    """
    wide = vectors.double()
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()


def rbf_kernel(distances: Tensor, sigma: float | None = None) -> Tensor:
    """The RBF kernel of squared distances.

    Args:
        distances: (..., n, n).
        sigma: Width of the kernel; by default, for every set, the root of the median of its squared distances
            that are not 0.

    Returns:
        (..., n, n); NaN where all distances are 0 and no width is given.
    """
    if sigma is not None:
        return torch.exp(-distances / (2 * sigma**2))
    apart = torch.where(distances > 0, distances, math.nan).flatten(-2)
    return torch.exp(-distances / (2 * apart.nanquantile(0.5, dim=-1)[..., None, None]))


def centred(kernel: Tensor) -> Tensor:
    """H K H for (..., n, n) matrices."""
    rows, columns = kernel.mean(-1, keepdim=True), kernel.mean(-2, keepdim=True)
    return kernel - rows - columns + rows.mean(-2, keepdim=True)


def centred_kernel(distances: Tensor, kernel: Kernel = "linear", sigma: float | None = None) -> Tensor:
    """The centred kernel matrix of vectors with the given squared distances.

    Args:
        distances: (..., n, n).
        kernel: `linear` or `rbf`.
        sigma: Width of the RBF kernel, as for `rbf_kernel`.

    Returns:
        (..., n, n).

    Raises:
        ValueError: the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
    return centred(-0.5 * distances if kernel == "linear" else rbf_kernel(distances, sigma))


def hsic(one: Tensor, other: Tensor) -> Tensor:
    """Sum of the products of two centred kernel matrices (..., n, n): (...)."""
    return (one * other).sum((-2, -1))


def cka(x: Tensor, y: Tensor, kernel: Kernel = "linear", sigma: float | None = None) -> Tensor:
    """CKA of two sets of vectors whose rows belong together.

    Args:
        x: (..., n, d) vectors.
        y: (..., n, e) vectors; the width may differ.
        kernel: `linear` or `rbf`.
        sigma: Width of the RBF kernel, as for `rbf_kernel`.

    Returns:
        (...) in float64: 1 for equal sets, also after rotation, uniform scaling and shift (RBF: with the
        default width); NaN where all vectors of a set are equal, because their kernel is then 0 everywhere.

    Raises:
        ValueError: the numbers of vectors differ, or the kernel is unknown.
    """
    if x.shape[-2] != y.shape[-2]:
        raise ValueError(f"CKA needs as many rows in both sets, got {x.shape[-2]} and {y.shape[-2]}")
    one, other = (centred_kernel(squared_distances(vectors), kernel, sigma) for vectors in (x, y))
    return hsic(one, other) / (hsic(one, one) * hsic(other, other)).sqrt()


def similarities(distances: Sequence[Tensor], kernel: Kernel = "linear") -> Tensor:
    """CKA of every pair of sets, layer by layer.

    Args:
        distances: For each of T sets, for example tasks, its squared distances in every layer: (L, n, n).
        kernel: `linear` or `rbf`.

    Returns:
        (L, T, T) in float64.
    """
    flat = torch.stack([_unit(centred_kernel(each, kernel)).flatten(-2) for each in distances], dim=1)
    return flat @ flat.mT


def chance_similarities(distances: Sequence[Tensor], kernel: Kernel = "linear") -> Tensor:
    """The mean of CKA over all orders of the rows, for every pair of sets and layer by layer.

    Arguments and result are as for `similarities`; the diagonal is that of a set and itself in another order.
    """
    traces = [_unit(centred_kernel(each, kernel)).diagonal(dim1=-2, dim2=-1).sum(-1) for each in distances]
    trace = torch.stack(traces, dim=1)
    return trace.unsqueeze(-1) * trace.unsqueeze(-2) / (distances[0].shape[-1] - 1)


def _unit(kernel: Tensor) -> Tensor:
    return kernel / hsic(kernel, kernel).sqrt()[..., None, None]


def off_diagonal(matrices: Tensor) -> Tensor:
    """The entries of (L, T, T) matrices beside the diagonal: (L, T (T - 1)).

    Raises:
        ValueError: the shape is another one, or there are fewer than two tasks.
    """
    shape = tuple(matrices.shape)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < 2:
        raise ValueError(f"must hold (layers, tasks, tasks) of two tasks or more, got {shape}")
    return matrices[:, ~torch.eye(shape[1], dtype=torch.bool)]


def task_curve(matrices: Tensor) -> Tensor:
    """The mean CKA of two different tasks in every layer.

    Args:
        matrices: (L, T, T) of T >= 2 tasks.

    Returns:
        (L,)

    Raises:
        ValueError: the shape is another one.
    """
    return off_diagonal(matrices).mean(1)


def largest_drop(curve: Tensor) -> tuple[int, float]:
    """Where a curve falls most from one layer to the next.

    Args:
        curve: (L,) finite values of L >= 2 layers, from input to output.

    Returns:
        The layer that is lower than the one below it, the first of equals, and by how much; a negative number
        if the curve only rises.

    Raises:
        ValueError: there are fewer than two layers, or a value is not finite.
    """
    if len(curve) < 2:
        raise ValueError(f"must have two layers or more for one to be lower than another, got {len(curve)}")
    if not curve.isfinite().all():
        raise ValueError("holds a similarity that is not a number")
    drops = -curve.diff()
    layer = int(drops.argmax())
    return layer + 1, float(drops[layer])


def first_task_specific_layer(curve: Tensor, threshold: float = THRESHOLD) -> int | None:
    """The first decoder layer whose representations are specific to the task; see `RULE`.

    Args:
        curve: (L,) mean CKA of two different tasks in every layer from input to output, of L >= 2 layers.
        threshold: The drop from one layer to the next must exceed this.

    Returns:
        The layer's number from 0, or None if no drop is large enough.

    Raises:
        ValueError: there are fewer than two layers, or a value is not finite.
    """
    layer, drop = largest_drop(curve)
    return layer if drop > threshold else None
