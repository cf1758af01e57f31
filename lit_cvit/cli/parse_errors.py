"""What is wrong with a configuration that the parser refused: the first problem, with its key.

The parser's own message is not read. Files and options are walked once more against the constructors that
they configure, up to the first key that nothing takes, unknown class, or value that its type does not allow.
Whether a value fits a type is left to the parser, which is asked for that value alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentError

from lit_cvit.cli.arguments import CONFIG_OPTIONS, as_settings, options
from lit_cvit.cli.class_names import class_names, find_class
from lit_cvit.cli.shipped import find_config, read_config
from lit_cvit.cli.type_hints import allows, holds_items, is_component, settings_of, words_for
from lit_cvit.utils.suggest import unknown, unknown_key

_FRAME = ("class_path", "init_args", "dict_kwargs")


def explain(error: ArgumentError, args: Sequence[str], types: Mapping[str, Any], keys: Iterable[str]) -> str:
    """What is wrong with a command line or the files that it names, in one sentence.

    Args:
        error: What the parser raised.
        args: The command line.
        types: Type of every top key that has one to check.
        keys: Dotted keys that every configuration has, as the parser lists them.

    Returns:
        The first problem that is found; else the first message of the parser.
    """
    try:
        _Walk(types, keys).check(args)
    except ValueError as found:
        return str(found)
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    return " ".join(str(first).split())


class _Walk:
    """One walk through the sources of a configuration; a ValueError ends it at the first problem."""

    def __init__(self, types: Mapping[str, Any], keys: Iterable[str]) -> None:
        self._types, self._keys = types, tuple(keys)
        self._classes: dict[str, type] = {}
        self._given: set[str] = set()
        self._folder = Path()

    def check(self, args: Sequence[str]) -> None:
        for option, text in options(args):
            if text is not None and option in CONFIG_OPTIONS:
                path = find_config(text)
                self._folder = path.parent
                self._settings("", read_config(path))
            elif text is not None:
                self._settings("", as_settings(option, text))
        self._missing()

    def _missing(self) -> None:
        for key, base in self._types.items():
            if key in self._keys and inspect.isclass(base) and key not in self._classes:
                known = f"Known: {', '.join(class_names(base))}"
                raise ValueError(
                    f"{key}: none is named; start with `--config quickstart`, or name your own. {known}"
                )
        for key, owner in self._classes.items():
            for name, setting in inspect.signature(owner).parameters.items():
                is_named = setting.kind in (setting.POSITIONAL_OR_KEYWORD, setting.KEYWORD_ONLY)
                if is_named and setting.default is setting.empty and f"{key}.{name}" not in self._given:
                    raise ValueError(f"{key}: {owner.__name__} needs the setting {name!r}, and there is none")

    def _settings(self, key: str, values: Mapping[str, Any], owner: type | None = None) -> None:
        """Check the settings below a key, which belong to a class, or are the top ones."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{key}: got {values!r}; it must be a mapping of settings")
        start = f"{key}." if key else ""
        types, names = (self._types, []) if owner is None else settings_of(owner)
        fixed = {each.removeprefix(start).partition(".")[0] for each in self._keys if each.startswith(start)}
        for written, value in values.items():
            name = str(written).removesuffix("+")
            if fixed and name not in fixed:
                raise ValueError(unknown_key(start + name, self._keys))
            if owner is not None and not fixed and name not in names:
                raise ValueError(f"{key} ({owner.__name__}): {unknown('setting', name, names)}")
            self._given.add(start + name)
            self._value(start + name, types.get(name, Any), value)

    def _value(self, key: str, hint: Any, value: Any) -> None:
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        parts = [each for each in kinds if is_component(each)]
        if isinstance(value, list):
            item = next((get_args(each)[0] for each in kinds if holds_items(each)), Any)
            for each in value:
                self._value(key, item, each)
            if is_component(item):
                return
        elif parts and isinstance(value, str | dict):
            try:
                self._part(key, parts[0], value)
            except ValueError:
                if isinstance(value, dict) or not allows(hint, value):
                    raise
            return
        if not allows(hint, value):
            words = dict.fromkeys(words_for(each, value) for each in kinds if each is not NoneType)
            raise ValueError(f"{key}: got {value!r}; it must be {' or '.join(words)}")

    def _part(self, key: str, base: type, value: str | dict[str, Any]) -> None:
        """Check what names a class, its settings, or both."""
        if isinstance(value, str) and (self._folder / value).is_file():
            value = read_config(self._folder / value)
        spec: dict[str, Any] = {"class_path": value} if isinstance(value, str) else value
        if "class_path" in spec:
            try:
                self._classes[key] = find_class(base, str(spec["class_path"]))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        framed = "class_path" in spec or "init_args" in spec
        for name in spec if framed else ():
            if name not in _FRAME:
                raise ValueError(f"{key}: {unknown('key', name, _FRAME)}")
        settings = spec.get("init_args") if framed else spec
        self._settings(key, settings or {}, self._classes.get(key, base))
