"""Digests: of a resolved configuration, of a file, and of tensors."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


# What a resume may change, or is refused for with the reason (ranks), instead of being another configuration.
OF_THE_MACHINE = (
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_stages",
    "data.num_workers",
)


def config_digest(config: Mapping[str, Any], *, ignore: Collection[str]) -> str:
    """SHA-256 of a resolved configuration as canonical JSON.

    Args:
        config: The configuration; key order does not matter.
        ignore: Dotted keys to leave out wherever they are set (`run.name`, `ckpt_path`).

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: a value has no canonical form (an object); names its key.
    """
    plain = _canonical(config, "", frozenset(ignore))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def config_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations: `key (value before, value now)`, sorted by dotted key."""
    old, new = _flat(before), _flat(now)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key} (was {old.get(key)!r}, is {new.get(key)!r})" for key in keys]


def config_agrees(before: Mapping[str, Any], now: Mapping[str, Any], *, ignore: Collection[str]) -> bool:
    """Whether two configurations agree in all settings that both have, as those of two versions may.

    Args:
        before: A configuration.
        now: Another.
        ignore: Dotted keys that may differ.
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    return all(old[key] == new[key] for key in (old.keys() & new.keys()).difference(ignore))


def _leaves(value: object, where: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        yield f"{where}.length", len(value)
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}.{number}")
    else:
        yield where, value


def _flat(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{where}{key}.")
        else:
            found[f"{where}{key}"] = value
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, 64 hexadecimal digits."""
    import torch

    hasher = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        hasher.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        hasher.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _canonical(value: object, where: str, ignore: frozenset[str]) -> Any:
    if isinstance(value, enum.Enum):
        return _canonical(value.value, where, ignore)
    if isinstance(value, Mapping):
        places = {str(key): f"{where}.{key}" if where else str(key) for key in value}
        return {
            str(key): _canonical(item, places[str(key)], ignore)
            for key, item in value.items()
            if places[str(key)] not in ignore
        }
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}.{index}", ignore) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str | int | float | None):
        return value
    raise ValueError(f"configuration key {where}: a {type(value).__name__} has no place in a digest")
