"""Settings checked from type hints: choices by `Literal`, ranges by `Annotated[float, Range(...)]`.

The configuration parser reads the same hints, and leaves ranges to this module. A class that derives from
`CheckedSettings` is checked however it is built, from a configuration or from Python.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from lit_cvit.utils.recorded import RecordedSettings, positional
from lit_cvit.utils.suggest import did_you_mean

TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
    list: "a list such as [a, b]",
    tuple: "a list of the right length",
    dict: "a mapping such as {key: value}",
}
"""What a type allows, in words for users."""


@dataclass(frozen=True)
class Range:
    """The finite numbers that a setting may have, as metadata of an `Annotated` number.

    Attributes:
        at_least: Smallest of them.
        more_than: All are larger.
        at_most: Largest of them.
        less_than: All are smaller.
    """

    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    less_than: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.more_than is None or value > self.more_than)
            and (self.at_most is None or value <= self.at_most)
            and (self.less_than is None or value < self.less_than)
        )

    def __str__(self) -> str:
        limits = {name.replace("_", " "): limit for name, limit in vars(self).items() if limit is not None}
        return " and ".join(f"{words} {limit:g}" for words, limit in limits.items())


AtLeastOne = Annotated[int, Range(at_least=1)]
NotNegative = Annotated[float, Range(at_least=0)]
Positive = Annotated[float, Range(more_than=0)]
BelowOne = Annotated[float, Range(at_least=0, less_than=1)]
FromZeroToOne = Annotated[float, Range(at_least=0, at_most=1)]


class CheckedSettings(RecordedSettings):
    """A base of classes whose constructor's settings are checked before it runs, and recorded.

    Attributes:
        settings_prefix: What stands before the names of options in messages; by default the class's name.
    """

    settings_prefix: ClassVar[str] = ""

    # Not in __init__, which a subclass reaches with what it did not take itself.
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        owner: type = cls
        given = dict(zip(positional(owner), args, strict=False)) | kwargs
        check_settings(_hints(owner), given, prefix=cls.settings_prefix or f"{cls.__name__}.")
        return super().__new__(cls, *args, **kwargs)


def check_settings(hints: Mapping[str, Any], given: Mapping[str, Any], *, prefix: str) -> None:
    """Check values against type hints; what a hint says beyond numbers, texts and containers is not checked.

    Args:
        hints: Hint of each setting, `Annotated` included.
        given: The values; a setting without a hint may have any.
        prefix: What stands before a setting's name in messages, for example `model.`.

    Raises:
        ValueError: a value does not fit; names the setting, the value and what is allowed.
    """
    for name, value in given.items():
        if name in hints and not _fits(hints[name], value):
            hint = hints[name]
            allowed = ", or ".join(dict.fromkeys(_words(each, value) for each in _alternatives(hint)))
            mark = ";" if "," in allowed else ","
            raise ValueError(f"{prefix}{name} must be {allowed}{mark} got {value!r}{_nearest(hint, value)}")


def dataclass_hints(owner: type) -> dict[str, Any]:
    """The hints of a dataclass's fields, for a check in its `__post_init__`."""
    return get_type_hints(owner, include_extras=True)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The hints of all settings that a class's constructors take; a subclass's come before its base's."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, CheckedSettings) and "__init__" in vars(base):
            try:
                found |= get_type_hints(vars(base)["__init__"], include_extras=True)
            except NameError as error:
                raise TypeError(
                    f"the type hints of {base.__name__}.__init__ cannot be read ({error}); import what they "
                    "name outside of TYPE_CHECKING as well"
                ) from error
    found.pop("return", None)
    return found


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [limit for limit in hint.__metadata__ if isinstance(limit, Range)]
        return _fits(arguments[0], value) and all(value in limit for limit in limits)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and _entries_fit(origin, arguments, value)
    kinds: dict[Any, Any] = {
        int: Integral,
        float: Real,
        bool: bool,
        str: str | os.PathLike,
        NoneType: NoneType,
        dict: Mapping,
    }
    kind = kinds.get(origin or hint)
    # A bool is an int to Python, and a slip in a configuration.
    is_number = hint in (int, float)
    return kind is None or (isinstance(value, kind) and not (is_number and isinstance(value, bool)))


def _entries_fit(origin: type, hints: tuple[Any, ...], value: list[Any] | tuple[Any, ...]) -> bool:
    if origin is tuple and not (len(hints) == 2 and hints[1] is Ellipsis):
        return len(value) == len(hints) and all(map(_fits, hints, value))
    return all(_fits(hints[0], entry) for entry in value)


def _words(hint: Any, value: Any) -> str:
    """What one alternative of a hint allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = " and ".join(str(limit) for limit in hint.__metadata__ if isinstance(limit, Range))
        if not limits:
            return _words(arguments[0], value)
        if not _fits(arguments[0], value):
            return f"{_words(arguments[0], value)} that is {limits}"
        return limits if math.isfinite(value) else f"finite and {limits}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, tuple):
        entries = dict.fromkeys(_words(each, None) for each in arguments if each is not Ellipsis)
        return f"a list, each entry {' or '.join(entries)}"
    return TYPE_WORDS.get(origin or hint, f"of type {getattr(hint, '__name__', hint)}")


def _nearest(hint: Any, value: Any) -> str:
    """A hint at the listed text that a wrong one is most like, if there is one."""
    known = list(_texts(hint))
    for given in value if isinstance(value, list | tuple) else [value]:
        if isinstance(given, str) and given not in known and (hint := did_you_mean(given, known)):
            return f". {hint}"
    return ""


def _texts(hint: Any) -> Iterator[str]:
    """The texts that a hint lists, at any depth."""
    if get_origin(hint) is Literal:
        yield from (choice for choice in get_args(hint) if isinstance(choice, str))
    else:
        for each in get_args(hint):
            yield from _texts(each)
