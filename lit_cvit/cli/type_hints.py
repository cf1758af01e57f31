"""What a constructor takes, by its type hints: names, classes, lists, and words for the rest."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from lit_cvit.utils.settings import TYPE_WORDS
from lit_cvit.utils.suggest import did_you_mean


def settings_of(owner: type) -> tuple[dict[str, Any], list[str]]:
    """Types and names of the settings that a class takes, those that it hands on to its parents included."""
    types: dict[str, Any] = {}
    for parent in reversed(owner.__mro__):
        # A name that only type checkers import leaves the types of its constructor unknown.
        with contextlib.suppress(NameError):
            types |= get_type_hints(vars(parent).get("__init__", object.__init__))
    return types, ArgumentParser(exit_on_error=False).add_class_arguments(owner, fail_untyped=False)


def is_component(hint: Any) -> bool:
    """Whether a type is a class that a configuration builds from settings."""
    is_plain = get_origin(hint) is not None or hint is Any
    return inspect.isclass(hint) and not is_plain and hint.__module__ != "builtins"


def holds_items(hint: Any) -> bool:
    """Whether a type is a list or the like, with a type for its items."""
    origin = get_origin(hint)
    return inspect.isclass(origin) and issubclass(origin, Iterable)


def allows(hint: Any, value: Any) -> bool:
    """Whether the parser takes a value for a type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def words_for(hint: Any, value: Any) -> str:
    """What a type allows, in words; of several names, the one that the value is most like."""
    if get_origin(hint) is not Literal:
        return TYPE_WORDS.get(get_origin(hint) or hint, f"of type {inspect.formatannotation(hint)}")
    choices = [str(choice) for choice in get_args(hint)]
    return ". ".join(filter(None, (f"one of {', '.join(choices)}", did_you_mean(str(value), choices))))
