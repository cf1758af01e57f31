"""The recipe of `tiny`, and what the steps of its pre-training share: random draws, optimizer, log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Log = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        seed: Seed of weights, scenes and questions.
        vision_steps: Optimizer steps of the vision tower.
        vision_batch: Scenes per vision step.
        vision_rate: Peak learning rate of the vision step.
        language_steps: Optimizer steps of projector and decoder.
        language_batch: Scenes per language step.
        num_turns: Questions per scene.
        language_rate: Peak learning rate of projector, embeddings and norms, under AdamW.
        matrix_rate: Peak learning rate of the decoder's matrices, under Muon.
        sight_steps: Optimizer steps of the fourth step.
        sight_rate: Its peak learning rate under AdamW; that under Muon is `matrix_rate` in proportion.
        sight_weight: Weight of its loss over patches.
        instruction_steps: Optimizer steps of the last step.
        instruction_rate: Its peak learning rate under AdamW; that under Muon is in proportion, as before.
        instruction_share: Share of its questions that ask for a form of answer or a name.
        alignment_steps: Optimizer steps of the projector alone.
        alignment_rate: Peak learning rate of the projector alone.
        weight_decay: Decoupled weight decay of every step.
        log_every: Steps between log rows.
    """

    seed: int = 0
    vision_steps: int = 2500
    vision_batch: int = 96
    vision_rate: float = 1.5e-3
    language_steps: int = 3600
    language_batch: int = 32
    num_turns: int = 6
    language_rate: float = 1.5e-3
    matrix_rate: float = 4e-3
    sight_steps: int = 900
    sight_rate: float = 1e-3
    sight_weight: float = 0.2
    instruction_steps: int = 450
    instruction_rate: float = 1e-3
    instruction_share: float = 0.5
    alignment_steps: int = 500
    alignment_rate: float = 3e-3
    weight_decay: float = 0.02
    log_every: int = 100


def draws(recipe: Recipe, *key: int) -> np.random.Generator:
    """The random draws that belong to a key, for example to a step."""
    return np.random.default_rng([recipe.seed, *key])


def adamw(parameters: Iterable[nn.Parameter], *, rate: float, decay: float) -> Optimizer:
    """AdamW as every step of the recipe uses it."""
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.98))


def optimise(optimizers: Sequence[Optimizer], *, steps: int) -> Iterator[Callable[[Tensor], None]]:
    """Yield one update function per step: 5 % warm-up, cosine to zero, clipping at 1."""
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))

    schedules = [torch.optim.lr_scheduler.LambdaLR(each, factor) for each in optimizers]
    parameters = [p for each in optimizers for group in each.param_groups for p in group["params"]]

    def update(loss: Tensor) -> None:
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()

    for _ in range(steps):
        yield update


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every parameter to what half precision holds, so that what follows learns on what is shipped.

    Parameters alone: rounding the buffer of rotary frequencies would shift positions against a loaded model.
    """
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
