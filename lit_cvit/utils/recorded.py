"""RecordedSettings: objects that can say which settings they were built with, for the record of a run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

_PLAIN = (str, int, float, bool, type(None))


class RecordedSettings:
    """A base of classes whose constructor's settings are recorded, defaults of all their bases included.

    Attributes:
        free_settings: Settings that may differ when a run is opened again, because they give its tensors no
            other meaning and answers no other text: those of training alone, and paths. Those of all base
            classes count.
    """

    free_settings: ClassVar[tuple[str, ...]] = ()

    # Not in __init__, which a subclass reaches with what it did not take itself.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        owner: type = cls
        made = super().__new__(cls)
        given = dict(zip(positional(owner), args, strict=False)) | kwargs
        found = {**_defaults(owner), **given}
        # Not by attribute: a module of torch takes none before its own __init__.
        vars(made)["_recorded"] = {name: plain(value) for name, value in found.items() if is_plain(value)}
        return made

    def recorded_settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without the free ones and without objects, which have their own."""
        found: dict[str, Any] = vars(self)["_recorded"]
        free = {name for base in type(self).__mro__ for name in vars(base).get("free_settings", ())}
        return {name: value for name, value in found.items() if name not in free}


def is_plain(value: object) -> bool:
    """Whether a value is text, number, truth value or None, or lists and mappings of them."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return isinstance(value, _PLAIN)


def plain(value: Any) -> Any:
    """A plain value as JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@functools.cache
def positional(cls: type) -> tuple[str, ...]:
    """Names of the positional settings of a class's constructor, in order."""
    parameters = list(inspect.signature(vars(cls).get("__init__") or cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _defaults(cls: type) -> dict[str, Any]:
    """Defaults of the settings that a class's constructors take; a subclass's before its base's."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, RecordedSettings) and "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name: p.default for p in parameters if is_plain(p.default)}
    return found
