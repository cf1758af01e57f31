"""Adapter tensors in and out, under names of our own, and strictly.

The names are canonical ("decoder.0.mlp.gate_proj.blocks.3.A"), because the names of a model's modules differ
between families, between library versions, and between memory and disk.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lit_cvit.adapters.bank import LoRABank
from lit_cvit.adapters.routing import RoutingContext, routing

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
    found = difflib.get_close_matches(name, candidates, n=1)
    return f" (nearest missing name: {found[0]})" if found else ""


def _listed(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    rest = [f"  and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [f"{len(entries)} {title}:", *(f"  {entry}" for entry in entries[:_SHOWN]), *rest]


@torch.no_grad()
def adapter_changes_output(forward: Callable[[], Tensor], context: RoutingContext) -> bool:
    """Whether the banks that `forward` runs change its output at all, compared with the base layers alone.

    Args:
        forward: Runs the model or a part of it, deterministically (eval mode), and returns its output.
        context: Routing context to run it under.
    """
    # Memos of their own: the probe must not leave gates behind, nor find any.
    with routing(replace(context, memo={})):
        adapted = forward()
    with routing(replace(context, memo={}, bypass=True)):
        base = forward()
    return not torch.equal(adapted, base)


def require_effect(
    banks: Mapping[str, LoRABank], forward: Callable[[], Tensor], context: RoutingContext
) -> None:
    """Check after loading that an adapter that is not zero is really in the path of `forward`.

    Raises:
        ValueError: some block has B != 0, yet the output is the base model's bit for bit.
    """
    nonzero = [n for n, bank in banks.items() if any(bool(block.B.any()) for block in bank.lora_blocks())]
    if nonzero and not adapter_changes_output(forward, context):
        raise ValueError(
            f"the loaded adapter changes nothing: {len(nonzero)} banks have non-zero blocks "
            f"(first: {nonzero[0]!r}), but the output equals the base model's; "
            "are the banks in the model, and are their gates non-zero?"
        )
