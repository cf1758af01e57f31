"""How messages list names and count things, so that all of them do it alike."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 4


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """The first names, and how many more there are: `a, b, c, d and 3 more`.

    Args:
        names: The names.
        most: Names to list.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 task`, `2 tasks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printed(count: int, unit: int) -> str:
    """A published count in words: `about 12000` where it is printed in thousands."""
    return str(count) if unit == 1 else f"about {count}"
