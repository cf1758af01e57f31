"""Pure functions behind every mixture of LoRA: all that mixes blocks happens in rank space.

A bank holds blocks (A_i, B_i) of ranks r_i on one linear layer; side by side along the rank they are
A_cat (R, in) and B_cat (out, R) with R = sum r_i. The mixture is

    y = W0 x + s * B_cat (gate (x) (A_cat x))

where a block's gate scales its r_i rank coordinates, so no tensor of size blocks * out_features exists.

Sources: LoRA, arXiv 2106.09685; instance means, top-k gates and adaptive fusion are Eq. 4-9 of SMoLoRA,
arXiv 2411.13949; the product of sums is the published code of HiDe-LLaVA, arXiv 2503.12941.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def expand_gate(gate: Tensor, ranks: Sequence[int]) -> Tensor:
    """Repeat the gate of each block over the rank coordinates of that block.

    Args:
        gate: (..., blocks).
        ranks: Rank of each block; ranks may differ.

    Returns:
        (..., sum of ranks).

    Raises:
        ValueError: the gate has another number of blocks than `ranks`.
    """
    if gate.shape[-1] != len(ranks):
        raise ValueError(f"the gate has {gate.shape[-1]} blocks, the bank has {len(ranks)}")
    if len(set(ranks)) == 1:
        return gate.unsqueeze(-1).expand(*gate.shape, ranks[0]).flatten(-2)
    # Views joined by cat keep the backward free of atomic adds, which an index would not.
    return torch.cat([gate[..., i : i + 1].expand(*gate.shape[:-1], r) for i, r in enumerate(ranks)], dim=-1)


def gate_to_rows(gate: Tensor, row_to_sample: Tensor | None) -> Tensor:
    """Bring a gate of any of the three shapes to one that broadcasts over (rows, positions, blocks).

    Args:
        gate: (blocks,), (samples, blocks) or (rows, positions, blocks).
        row_to_sample: (rows,) sample index of each row; None where rows are the samples.

    Returns:
        (blocks,), (rows, 1, blocks) or the gate itself.

    Raises:
        ValueError: the gate has another number of dimensions.
    """
    if gate.dim() == 2:
        rows = gate if row_to_sample is None else gate.index_select(0, row_to_sample)
        return rows.unsqueeze(1)
    if gate.dim() not in (1, 3):
        raise ValueError(
            "a gate is (blocks,), (samples, blocks) or (rows, positions, blocks), "
            f"got a tensor of shape {tuple(gate.shape)}"
        )
    return gate


def weigh_blocks(z: Tensor, gate: Tensor | None, *, ranks: Sequence[int]) -> Tensor:
    """Scale the rank coordinates by their blocks' gates: gate (x) z.

    Args:
        z: (rows, positions, R), the joined down-projection A_cat x.
        gate: Broadcasts over (rows, positions, blocks), see `gate_to_rows`; None means all ones.
        ranks: Rank of each block, in the order of z.

    Returns:
        (rows, positions, R), for `add_up`.
    """
    if gate is None:
        return z
    if len(set(ranks)) == 1:
        # Broadcasting: a gate as wide as z would be written and read once more, and so would its gradient.
        return (z.unflatten(-1, (len(ranks), ranks[0])) * gate.unsqueeze(-1).to(z.dtype)).flatten(-2)
    return z * expand_gate(gate, ranks).to(z.dtype)


def weigh_sums(z: Tensor, gate: Tensor | None, *, ranks: Sequence[int]) -> Tensor:
    """The rank coordinates of the product of the gated sums, (sum_i gate_i B_i) (sum_j gate_j A_j) x.

    HiDe's official fusion, cross terms included. The sum over j is formed in rank space and handed to every
    B_i, so neither the weights are added up nor is a tensor of size blocks * out_features formed. A gate of
    one block alone gives what `weigh_blocks` gives.

    Args:
        z: (rows, positions, R), the joined down-projection A_cat x.
        gate: Broadcasts over (rows, positions, blocks), see `gate_to_rows`; None means all ones.
        ranks: Rank of each block, in the order of z; all equal.

    Returns:
        (rows, positions, R), for `add_up`.

    Raises:
        ValueError: the ranks differ.
    """
    if len(set(ranks)) != 1:
        raise ValueError(f"the sum of A_i needs blocks of one rank, got ranks {tuple(ranks)}")
    blocks = z.unflatten(-1, (len(ranks), ranks[0]))
    if gate is None:
        return blocks.sum(-2, keepdim=True).expand_as(blocks).flatten(-2)
    weights = gate.unsqueeze(-1).to(z.dtype)
    return ((blocks * weights).sum(-2, keepdim=True) * weights).flatten(-2)


def row_norms(weight: Tensor, down: Tensor, up: Tensor, *, scaling: float) -> Tensor:
    """The length of every row of W + s B A, without forming B A (DoRA, arXiv 2402.09353, Eq. 5).

    |w + s A'b|^2 = |w|^2 + 2 s (W A')_row . b + s^2 b' (A A') b, so nothing larger than (out, R) is formed.
    The product with W runs in W's type: it is a small correction to the lengths.

    Args:
        weight: (out, in) W.
        down: (R, in) A.
        up: (out, R) B.
        scaling: The factor s.

    Returns:
        (out,) in at least float32.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    squares = torch.linalg.vector_norm(weight, dim=1, dtype=dtype).square()
    cross = (weight @ down.T.to(weight.dtype)).to(dtype) * up
    own = (up @ (down @ down.T)) * up
    squares = squares + 2 * scaling * cross.sum(1) + scaling**2 * own.sum(1)
    # Rounding may leave less than nothing of a row that B A has cancelled.
    return squares.clamp(min=torch.finfo(dtype).tiny).sqrt()


def sample_means(x: Tensor, mask: Tensor | None, *, row_to_sample: Tensor | None, num_samples: int) -> Tensor:
    """Mean of x over the unmasked positions of all rows of each sample (SMoLoRA Eq. 4, per instance).

    Args:
        x: (rows, positions, d), or (rows, d) for flattened patches, which are one position each; finite also
            where it is masked.
        mask: (rows, positions) True at positions that count; None counts all.
        row_to_sample: (rows,) sample index of each row; None where rows are the samples.
        num_samples: Number of samples S.

    Returns:
        (S, d) in at least float32; zeros for a sample without any counted position.
    """
    x = x.unsqueeze(1) if x.dim() == 2 else x
    dtype = torch.promote_types(x.dtype, torch.float32)
    if mask is None:
        sums = x.sum(1, dtype=dtype)
        counts = sums.new_full((x.shape[0],), x.shape[1])
    elif x.dtype == dtype:
        # A product reads the input once, where filling the masked positions would write and read a copy.
        sums = torch.bmm(mask.to(dtype).unsqueeze(1), x).squeeze(1)
        counts = mask.sum(1, dtype=dtype)
    else:
        sums = x.masked_fill(~mask.unsqueeze(-1), 0).sum(1, dtype=dtype)
        counts = mask.sum(1, dtype=dtype)
    if row_to_sample is not None:
        sums = sums.new_zeros(num_samples, x.shape[-1]).index_add(0, row_to_sample, sums)
        counts = counts.new_zeros(num_samples).index_add(0, row_to_sample, counts)
    return sums / counts.clamp(min=1).unsqueeze(-1)


def top_k_gate(logits: Tensor, k: int) -> Tensor:
    """Softmax over the k largest logits, 0 elsewhere (SMoLoRA Eq. 5-6).

    With k = 1 the kept weight is exactly 1.0 whatever the logit, so nothing can be learned through it.
    Ties are won by the first index.

    Args:
        logits: (..., blocks).
        k: Number of blocks kept, 1 to blocks.

    Returns:
        (..., blocks), summing to 1.

    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"top_k must be between 1 and the number of blocks {logits.shape[-1]}, got {k}")
    if k == 1:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    # torch.topk promises no order among equal values; a stable sort does.
    values, indices = logits.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(logits).scatter(-1, indices[..., :k], values[..., :k].softmax(-1))


def fusion_directions(vectors: Tensor, up: Tensor, gate: Tensor, *, num_first: int, scaling: float) -> Tensor:
    """The rank-space vectors d of two branches with <d, z> = I . (s * B (gate (x) z)), B and z of the branch.

    Args:
        vectors: (2, out) fusion vectors I, one of each branch.
        up: (out, R) joined up-projections of the first branch, then of the second.
        gate: (rows, R) the gate, expanded over the ranks.
        num_first: Ranks of the first branch.
        scaling: The factor s.

    Returns:
        (rows, R, 2), zero at the ranks of the other branch.
    """
    # One product for both, half of it for nothing: the gradient of a slice is a copy that is mostly zeros.
    products = up.T @ vectors.T
    first = (torch.arange(len(products), device=products.device) < num_first).to(products.dtype)
    return gate.unsqueeze(-1) * (products * torch.stack([scaling * first, scaling * (1 - first)], dim=-1))


def adaptive_fusion(z: Tensor, directions: Tensor) -> Tensor:
    """Weights of the two branches at each position (SMoLoRA Eq. 8-9), without forming the branches.

    I . (B z) = (I B) . z, so the logit of a branch of width `out` needs only its rank coordinates.

    Args:
        z: (rows, positions, R) rank coordinates of the visual-understanding branch, then of the
            instruction-following one, not yet gated.
        directions: (rows, R, 2) from `fusion_directions`.

    Returns:
        (rows, positions, 2): alpha and beta, summing to 1.
    """
    return torch.bmm(z, directions.to(z.dtype)).softmax(-1)
