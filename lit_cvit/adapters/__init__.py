"""Adapters: mixtures of LoRA blocks on linear layers, their routing, and banks of projectors."""

from lit_cvit.adapters.bank import LoRABank, LoRABlock, joined
from lit_cvit.adapters.dora import DoRABank
from lit_cvit.adapters.frozen import FrozenCopy
from lit_cvit.adapters.growth import grow
from lit_cvit.adapters.injection import Target, inject
from lit_cvit.adapters.merging import MergedBanks
from lit_cvit.adapters.patched import Patch, PatchedBank
from lit_cvit.adapters.projector import PRETRAINED, ProjectorBank, reinitialise
from lit_cvit.adapters.routing import (
    DECODER,
    BankView,
    Router,
    RoutingContext,
    active,
    checkpoint_context_fn,
    current,
    routing,
    used_blocks,
)
from lit_cvit.adapters.state import (
    adapter_state,
    load_adapter_state,
    load_strict,
)
from lit_cvit.adapters.unrouted import held_groups, hold_unrouted, largest_gradients

__all__ = [
    "DECODER",
    "PRETRAINED",
    "BankView",
    "DoRABank",
    "FrozenCopy",
    "LoRABank",
    "LoRABlock",
    "MergedBanks",
    "Patch",
    "PatchedBank",
    "ProjectorBank",
    "Router",
    "RoutingContext",
    "Target",
    "active",
    "adapter_state",
    "checkpoint_context_fn",
    "current",
    "grow",
    "held_groups",
    "hold_unrouted",
    "largest_gradients",
    "inject",
    "joined",
    "load_adapter_state",
    "load_strict",
    "reinitialise",
    "routing",
    "used_blocks",
]
