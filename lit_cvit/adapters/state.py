"""Adapter tensors in and out, under names of our own, and strictly.

The names are canonical ("decoder.0.mlp.gate_proj.blocks.3.A"), because the names of a model's modules differ
between families, between library versions, and between memory and disk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_cvit.adapters.bank import LoRABank
from lit_cvit.utils.suggest import nearest

_SHOWN = 8


def adapter_state(banks: Mapping[str, LoRABank]) -> dict[str, Tensor]:
    """All tensors of the banks but the base layers: blocks, trained or frozen, and routers, also fixed ones.

    Args:
        banks: Banks by canonical name.

    Returns:
        Tensors by canonical name. They share memory with the banks: clone them to keep a snapshot.
    """
    state: dict[str, Tensor] = {}
    for name, bank in banks.items():
        for part, module in (("blocks", bank.blocks), ("router", bank.router)):
            if module is not None:
                state |= {f"{name}.{part}.{key}": value for key, value in module.state_dict().items()}
    return state


def load_adapter_state(banks: Mapping[str, LoRABank], state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the banks, which must already have the same blocks and routers.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape. Nothing is loaded then.
    """
    load_strict(adapter_state(banks), state)


def load_strict(target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the tensors of `target`, name by name; the types of `target` are kept.

    Raises:
        ValueError: the names or shapes differ; lists what is missing, unexpected (with the nearest missing
            name) and of another shape. Nothing is copied then.
    """
    missing = [name for name in target if name not in state]
    unexpected = [name for name in state if name not in target]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, should be {tuple(target[name].shape)}"
        for name in target
        if name in state and state[name].shape != target[name].shape
    ]
    problems = [
        *_listed("missing", missing),
        *_listed("unexpected", [name + _nearest(name, missing) for name in unexpected]),
        *_listed("of another shape", shapes),
    ]
    if problems:
        raise ValueError("the saved adapter does not fit the model:\n" + "\n".join(problems))
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(state[name])


def _nearest(name: str, candidates: list[str]) -> str:
    found = nearest(name, candidates)
    return f" (nearest missing name: {found})" if found else ""


def _listed(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    rest = [f"  and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [f"{len(entries)} {title}:", *(f"  {entry}" for entry in entries[:_SHOWN]), *rest]
