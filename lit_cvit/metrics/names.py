"""The error for a name that nothing has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return an error that names the kind, the unknown name, the nearest known one and all known ones.

    Args:
        kind: What the name should have been, for example "scorer".
        name: The unknown name.
        known: The names there are.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}")
