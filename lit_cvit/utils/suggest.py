"""The one wording of messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name that is most like `name`, whatever their case; empty where none is like it."""
    folded = {each.casefold(): each for each in reversed(list(known))}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` with the known name that is most like `name`; empty where none is like it."""
    near = nearest(name, known)
    return f"Did you mean {near!r}?" if near else ""


def unknown(what: str, got: object, known: Iterable[str]) -> str:
    """Say that `got` is no valid `what`, name the nearest valid one if any is near, and list all."""
    names = list(known)
    hint = did_you_mean(got, names) if isinstance(got, str) else ""
    return f"unknown {what} {got!r}.{f' {hint}' if hint else ''} Known: {', '.join(names)}"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that nothing takes a dotted key, and name the nearest of those that are known.

    The whole key is compared first: a parent may be misspelt. Then its last part, best under the same parent.
    """
    keys = tuple(known)
    parent, _, leaf = key.rpartition(".")
    ordered = sorted(keys, key=lambda each: not each.startswith(f"{parent}."))
    leaves = {each.rpartition(".")[2]: each for each in reversed(ordered)}
    tops = (each.partition(".")[0] for each in keys)
    near = nearest(key, (*tops, *keys), cutoff=0.85)
    near = near or leaves.get(nearest(leaf, leaves, cutoff=0.65), "")
    return f"unknown option or key {key!r}. {f'Did you mean {near!r}?' if near else '`--help` lists all'}"
