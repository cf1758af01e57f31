"""How samples are routed through the blocks of a bank: sums over samples, and the means that follow.

SMoLoRA Fig. 6 (blocks by task) and Fig. 8 (alpha and beta by layer), ProgLoRA Figs. 5-6 (weights of blocks).
Every sample counts once, however long it is: its gates are averaged over its positions first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cvit.analysis.layers import by_layer


@dataclass(frozen=True)
class GateSums:
    """What some samples have done in a bank of N blocks; may be added up.

    Attributes:
        gate: (N,) sum over samples of a block's gate.
        used: (N,) sum over samples of the share of positions where a block's gate is not zero.
        samples: Number of samples that went through the bank.
    """

    gate: Tensor
    used: Tensor
    samples: int

    def __add__(self, other: GateSums) -> GateSums:
        return GateSums(self.gate + other.gate, self.used + other.used, self.samples + other.samples)


@dataclass(frozen=True)
class BankRouting:
    """How the samples of a task went through a bank of N blocks, on average.

    Attributes:
        samples: Samples that did; the projector sees none without an image.
        gate: N mean gates.
        used: N shares of samples (and, where gates vary inside a sample, of its positions) for which the
            block's gate is not zero.
        fusion: Mean alpha and beta of a bank with two fused branches, else None.
    """

    samples: int
    gate: tuple[float, ...]
    used: tuple[float, ...]
    fusion: tuple[float, float] | None = None


@dataclass(frozen=True)
class TaskRouting:
    """How a task's samples were routed.

    Attributes:
        task: Name of the task.
        seen: Whether the run has learned it by then.
        held_out: Whether it is a downstream task, which is never learned.
        samples: Samples that were run.
        banks: By the bank's name, in model order.
    """

    task: str
    seen: bool
    held_out: bool
    samples: int
    banks: Mapping[str, BankRouting]

    @property
    def label(self) -> str:
        """The task's name, and whether it was not yet, or will never be learned."""
        if self.seen:
            return self.task
        return f"{self.task} (unseen, downstream)" if self.held_out else f"{self.task} (unseen)"


class Fusion(NamedTuple):
    """A task, and by layer the means of alpha and beta over the layer's banks."""

    task: TaskRouting
    layers: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class RoutingReport:
    """The routing of a method after a stage.

    Attributes:
        stage: Stage number, from 1.
        learned: Task of the stage.
        tasks: One or more tasks, seen ones first.
    """

    stage: int
    learned: str
    tasks: tuple[TaskRouting, ...]

    @property
    def banks(self) -> tuple[str, ...]:
        """Names of the banks that any task's samples went through, in model order."""
        # A task without images leaves the projector out, so the longest list comes first.
        orders = sorted((list(task.banks) for task in self.tasks), key=len, reverse=True)
        return tuple(dict.fromkeys(name for order in orders for name in order))

    def fusion(self) -> tuple[Fusion, ...]:
        """Alpha and beta by task and layer; tasks and layers without any are left out."""
        found = []
        for task in self.tasks:
            by_bank = {name: bank.fusion for name, bank in task.banks.items() if bank.fusion is not None}
            means = {}
            for layer, names in by_layer(by_bank).items():
                alpha, beta = (math.fsum(by_bank[name][n] for name in names) / len(names) for n in (0, 1))
                means[layer] = (alpha, beta)
            if means:
                found.append(Fusion(task, means))
        return tuple(found)


def gate_sums(gate: Tensor, used: Tensor, present: Tensor) -> GateSums:
    """Sums over a batch of S samples.

    Args:
        gate: (S, N) each sample's mean gate.
        used: (S, N) share of each sample's positions where the gate is not zero.
        present: (S,) True at samples that went through the bank.
    """
    chosen = present.bool()
    return GateSums(
        gate[chosen].sum(0, dtype=torch.float64).cpu(),
        used[chosen].sum(0, dtype=torch.float64).cpu(),
        int(chosen.sum()),
    )


def bank_routing(sums: GateSums, branches: tuple[int, int] | None = None) -> BankRouting:
    """Means from sums over at least one sample.

    Args:
        sums: The sums.
        branches: Blocks of each of two fused branches, first alpha's, whose own gates sum to 1; the bank's
            gates are their products with alpha and beta.
    """
    gate, used = sums.gate / sums.samples, sums.used / sums.samples
    fusion = None
    if branches is not None:
        alpha, beta = (float(part.sum()) for part in gate.split(branches))
        fusion = (alpha, beta)
    return BankRouting(sums.samples, tuple(gate.tolist()), tuple(used.tolist()), fusion)


def added(parts: Iterable[Mapping[str, GateSums]]) -> dict[str, GateSums]:
    """Sums by bank over batches, in the order given; a bank that a batch did not reach is left out there."""
    total: dict[str, GateSums] = {}
    for part in parts:
        for bank, sums in part.items():
            total[bank] = total[bank] + sums if bank in total else sums
    return total
