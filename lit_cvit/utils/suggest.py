"""The one wording of messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, got: object, known: Iterable[str]) -> str:
    """Say that `got` is no valid `what`, name the nearest valid one if any is near, and list all."""
    names = list(known)
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(got.casefold(), folded, n=1) if isinstance(got, str) else []
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    return f"unknown {what} {got!r}.{hint} Known: {', '.join(names)}"


def printed(count: int, unit: int) -> str:
    """A published count in words: `about 12000` where it is printed in thousands."""
    return str(count) if unit == 1 else f"about {count}"
