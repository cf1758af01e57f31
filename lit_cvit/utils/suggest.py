"""The one wording of messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name that is most like `name`, whatever their case; empty where none is like it."""
    folded = {each.casefold(): each for each in reversed(list(known))}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else ""


def unknown(what: str, got: object, known: Iterable[str]) -> str:
    """Say that `got` is no valid `what`, name the nearest valid one if any is near, and list all."""
    names = list(known)
    near = nearest(got, names) if isinstance(got, str) else ""
    hint = f" Did you mean {near!r}?" if near else ""
    return f"unknown {what} {got!r}.{hint} Known: {', '.join(names)}"
