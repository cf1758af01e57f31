"""What a method adds to its model by the last stage, on an outline without weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_cvit.adapters import DECODER, ProjectorBank, Target, grow, inject
from lit_cvit.backbones.footprint import Outline
from lit_cvit.backbones.parts import weights_at
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod


class Unplannable(Exception):
    """A method of which a part does not work before its model is loaded."""


@contextlib.contextmanager
def asking(method: ContinualMethod, what: str) -> Iterator[None]:
    """Turn what a method's own code may raise without a loaded model into `Unplannable`.

    Users' errors go through: they would come later, after the weights were read.
    """
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        name = f"{type(method).__name__}'s {what}"
        raise Unplannable(f"{name} does not work before the model is loaded ({error!r:.200})") from error


class Adapters(NamedTuple):
    """What a method adds to its model, on an outline, as it is in the last stage.

    Attributes:
        tensors: All of it.
        trained: What trains then, also of the model itself.
        num_banks: Banks of blocks.
        routed_ranks: Ranks of all blocks of the decoder that a router in the layer mixes.
        in_projector: Inputs and outputs, summed over the projector's layers; 0 if nothing there trains.
        num_stages: Number of the last stage.
    """

    tensors: list[Tensor]
    trained: list[Tensor]
    num_banks: int
    routed_ranks: int
    in_projector: int
    num_stages: int


def grown(method: ContinualMethod, built: Outline, plans: Sequence[Mapping[str, Any]]) -> Adapters:
    """Put a method's adapters into an outline and let them grow; the banks are left without routers."""
    chosen = {
        name: target for group in method.adapted_groups for name, target in built.linears[group].items()
    }
    targets = {name: Target(target.path, target.kind) for name, target in chosen.items()}
    with asking(method, "make_bank"):
        banks = inject(built.network, targets, method.make_bank)
    base = built.network.get_submodule(method.backbone.projector_path)
    copies = ProjectorBank(base) if method.projector == "full" and method.trains else None
    for plan in plans:
        # On the meta device nothing is drawn, which would take longer than all the rest.
        with torch.device("meta"):
            grow(banks.values(), copies, plan, torch.Generator())
    weights: list[nn.Parameter] = []
    if method.trains and method.train_mode == "full":
        weights = list(weights_at(built.network, method.backbone.language_paths).values())
        for weight in weights:
            weight.requires_grad_(True)
    added = list(chain.from_iterable(map(_without_base, (*banks.values(), *([copies] if copies else [])))))
    routed = [bank for bank in banks.values() if bank.router is not None and bank.kind == DECODER]
    routed_ranks = sum(sum(bank.ranks) for bank in routed)
    for bank in banks.values():
        # Without a router no sample is needed to run the bank.
        bank.router, bank.default_gate = None, "ones"
        bank.dropout.train()
    linears = [module for module in base.modules() if isinstance(module, nn.Linear)]
    trains = copies is not None or any(bank.kind != DECODER for bank in banks.values())
    return Adapters(
        tensors=added,
        trained=[*weights, *(tensor for tensor in added if tensor.requires_grad)],
        num_banks=len(banks),
        routed_ranks=routed_ranks,
        in_projector=sum(each.in_features + each.out_features for each in linears) if trains else 0,
        num_stages=len(plans),
    )


def _without_base(bank: nn.Module) -> Iterator[Tensor]:
    named = chain(bank.named_parameters(), bank.named_buffers())
    yield from (tensor for name, tensor in named if not name.startswith("base."))


def growth(method: ContinualMethod, stages: Sequence[Stage], done: int) -> list[Mapping[str, Any]]:
    """The plans of the stages to come, as far as they change sizes.

    Args:
        method: The method, which stays as it is.
        stages: The stages.
        done: Stages before them.

    Raises:
        Unplannable: the method cannot say before its model is loaded.
    """
    plans: list[Mapping[str, Any]] = []
    with asking(method, "growth"):
        # A twin plans, so that nothing a plan leaves behind reaches the method.
        twin = copy.deepcopy(method, {id(method.backbone): method.backbone})
        for stage in stages:
            twin.num_plans = done + len(plans)
            plans.append(twin.growth(stage))
    return plans
