"""Putting banks in the place of linear layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from lit_cvit.adapters.bank import LoRABank
from lit_cvit.adapters.routing import DECODER


@dataclass(frozen=True)
class Target:
    """A layer to adapt.

    Attributes:
        path: Dotted path of the module below the root; it differs between model families and versions.
        kind: Kind of module, the key of the routing context's row maps.
    """

    path: str
    kind: str = DECODER


def _find(root: nn.Module, name: str, path: str) -> nn.Module:
    modules = dict(root.named_modules())
    if path not in modules:
        nearest = difflib.get_close_matches(path, modules, n=3)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise ValueError(f"target {name!r}: the model has no module {path!r}{hint}")
    return modules[path]


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def inject(
    root: nn.Module,
    targets: Mapping[str, Target],
    make_bank: Callable[[str, Target, nn.Linear], LoRABank],
) -> dict[str, LoRABank]:
    """Replace each target in place by the bank that `make_bank(name, target, base)` builds around it.

    Args:
        root: The model.
        targets: Target by canonical name, for example {"decoder.0.mlp.up_proj": Target("model.layers.0...")}.
        make_bank: Builds the bank; called in the order of `targets`, so that a generator's draws are stable.

    Returns:
        The banks by canonical name, in the order of `targets`.

    Raises:
        ValueError: a path is unknown, is named twice, or is not a linear layer. Nothing is replaced then.
    """
    bases: dict[str, nn.Linear] = {}
    owners: dict[str, str] = {}
    for name, target in targets.items():
        module = _find(root, name, target.path)
        if isinstance(module, LoRABank):
            raise ValueError(f"target {name!r}: {target.path!r} already carries the bank {module.name!r}")
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"target {name!r}: {target.path!r} is a {type(module).__name__}; "
                "only linear layers can be adapted"
            )
        if target.path in owners:
            raise ValueError(
                f"targets {owners[target.path]!r} and {name!r} name the same module {target.path!r}"
            )
        bases[name], owners[target.path] = module, name
    banks = {}
    for name, target in targets.items():
        banks[name] = make_bank(name, target, bases[name])
        _replace(root, target.path, banks[name])
    return banks
