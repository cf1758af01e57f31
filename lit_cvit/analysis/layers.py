"""Which layer of the model a tensor or a bank belongs to, by its canonical name."""

from __future__ import annotations

from collections.abc import Iterable


def layer_of(name: str) -> str:
    """`decoder.3` of "decoder.3.mlp.up_proj", `projector` of "projector.linear_1.blocks.0.A"."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() else first


def by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each layer, in the order given."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(layer_of(name), []).append(name)
    return found
