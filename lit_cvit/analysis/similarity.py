"""How alike tasks are, from the mean embeddings of their images, instructions and answers (ProgLoRA, Eq. 3).

w_{p,i} = cos(e^v_p, e^v_i) cos(e^q_p, e^q_i) cos(e^a_p, e^a_i), taken into [0, 1]. The transform `tir` is
that of TIR (He et al., arXiv 2311.16206), whose embeddings ProgLoRA takes over: every cosine is first made a
z-score among all pairs of tasks, and then goes through a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

Transform = Literal["none", "tir"]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of two vectors (d,) in float64: ().

    A zero vector stands for a modality that a task does not have: two tasks without it do not differ in it
    (1), and one of them without it has nothing in common with the other (0).
    """
    if not one.any() and not other.any():
        return torch.ones((), dtype=torch.float64)
    return functional.cosine_similarity(one.double(), other.double(), dim=0)


def task_similarities(tasks: Sequence[Sequence[Tensor]], *, transform: Transform = "none") -> list[float]:
    """Similarity of the last task with each earlier one.

    Args:
        tasks: For each task in the order of the stream its mean embeddings, one (d,) per modality.
        transform: `none`, or `tir`, whose z-scores are among the pairs of the tasks given.

    Returns:
        One number in [0, 1] for each task but the last.

    Raises:
        ValueError: `transform` is unknown.
    """
    if transform not in ("none", "tir"):
        raise ValueError(f"similarity_transform must be 'none' or 'tir', got {transform!r}")
    weights = torch.ones(len(tasks) - 1, dtype=torch.float64)
    for modality in zip(*tasks, strict=True):
        cosines = (
            torch.stack([cosine(each, modality[-1]) for each in modality[:-1]])
            if weights.numel()
            else weights
        )
        if transform == "tir" and weights.numel():
            cosines = torch.sigmoid(_z_scores(cosines, modality))
        weights = weights * cosines
    return weights.clamp(0, 1).tolist()


def _z_scores(cosines: Tensor, modality: Sequence[Tensor]) -> Tensor:
    pairs = [cosine(modality[p], modality[i]) for i in range(len(modality)) for p in range(i)]
    every = torch.stack(pairs)
    spread = every.std(correction=0)
    # A single pair is its own mean, and so are pairs that are all alike.
    return (cosines - every.mean()) / spread if spread > 0 else torch.zeros_like(cosines)


@runtime_checkable
class MeasuresSimilarity(Protocol):
    """A method that can measure the similarity of tasks; callbacks size their memories by it."""

    measures: bool

    def similarities(self) -> dict[str, float]:
        """Similarity in [0, 1] of the stage's task with each earlier one, by name."""
        ...


def require_similarities(method: object, *, option: str) -> None:
    """Check that a method measures how alike the tasks are.

    Args:
        method: The method.
        option: What needs it, for the message: `Replay.sizes 'similarity'`.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(method, MeasuresSimilarity):
        raise ValueError(
            f"{option} needs a method that compares tasks, such as ProgLoRAStatic, "
            f"not {type(method).__name__}"
        )
    if not method.measures:
        raise ValueError(
            f"{option} needs the similarity of tasks, which {type(method).__name__} as configured does not "
            "measure (text_encoder: null, or recall: none)"
        )
