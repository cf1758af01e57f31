"""Hooks that have another name than in earlier versions: overriding an old one is an error, not void."""

from __future__ import annotations

from collections.abc import Mapping


def refuse_old_hooks(cls: type, renamed: Mapping[str, str]) -> None:
    """Refuse a class that overrides a hook by its old name, which nothing calls any more.

    Args:
        cls: The class.
        renamed: New names of hooks and properties by their old ones.

    Raises:
        TypeError: it does; names the new hook.
    """
    for old, new in renamed.items():
        if old in vars(cls):
            name = f"{cls.__module__}.{cls.__qualname__}"
            raise TypeError(f"{name} overrides {old!r}, which is called {new!r} now; rename it")
