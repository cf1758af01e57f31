"""Parts of a loaded model: its linear layers under names of our own, and a digest of what is frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn


class LinearTarget(NamedTuple):
    """A linear layer that can be adapted: its module path under `Backbone.model`, and its kind of rows."""

    path: str
    kind: Literal["decoder", "projector"]


def find_linears(
    network: nn.Module, *, layers_path: str, projector_path: str, groups: Mapping[str, str]
) -> dict[str, dict[str, LinearTarget]]:
    """Linear layers by group, then by canonical name (`decoder.0.mlp.gate_proj`, `projector.linear_1`).

    Args:
        network: The unadapted model.
        layers_path: Path of the list of decoder layers.
        projector_path: Path of the projector.
        groups: Group name to the start of its layers' names within a decoder layer.
    """
    found: dict[str, dict[str, LinearTarget]] = {group: {} for group in (*groups, "projector")}
    for path, module in network.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if path.startswith(f"{layers_path}."):
            number, inner = path.removeprefix(f"{layers_path}.").split(".", 1)
            for group, start in groups.items():
                if inner.startswith(start):
                    found[group][f"decoder.{number}.{inner}"] = LinearTarget(path, "decoder")
        elif path.startswith(f"{projector_path}."):
            name = path.removeprefix(f"{projector_path}.")
            found["projector"][f"projector.{name}"] = LinearTarget(path, "projector")
    return found


def weights_at(network: nn.Module, paths: Mapping[str, str]) -> dict[str, nn.Parameter]:
    """The parameters of some parts as `<part>.<name in it>`; one that several parts share comes once.

    Args:
        network: The unadapted model.
        paths: Path of each part, by its name.
    """
    found: dict[str, nn.Parameter] = {}
    for part, path in paths.items():
        for name, parameter in network.get_submodule(path).named_parameters(prefix=part):
            if not any(parameter is each for each in found.values()):
                found[name] = parameter
    return found


def digest(modules: Iterable[tuple[str, nn.Module]], *, exclude: tuple[str, ...] = ()) -> str:
    """SHA-256 over names, types, shapes and bytes of the modules' own frozen tensors.

    Args:
        modules: Path and module; only a module's own tensors count, not its children's.
        exclude: Paths to leave out, with all below them.
    """
    total = hashlib.sha256()
    for path, module in modules:
        if any(path == left or path.startswith(f"{left}.") for left in exclude):
            continue
        for name, tensor in _frozen_tensors(module):
            total.update(f"{path}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _frozen_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # Typed loosely: what 4- and 8-bit parameters carry beside the weight is known to bitsandbytes alone.
    parameters: Iterator[tuple[str, Any]] = module.named_parameters(recurse=False)
    for name, parameter in parameters:
        if parameter.requires_grad:
            continue
        kind = type(parameter).__name__
        # Of a layer in shards, what this rank holds.
        yield name, parameter.to_local() if kind == "DTensor" else parameter
        if kind == "Params4bit":
            for key, value in sorted(parameter.quant_state.as_dict(packed=True).items()):
                yield f"{name}.{key}", value
        elif kind == "Int8Params":
            # The first forward pass moves the row scales from the parameter to the module's state.
            state: Any = module.state
            yield f"{name}.SCB", state.SCB if parameter.SCB is None else parameter.SCB
    yield from module.named_buffers(recurse=False)
