"""Classes as configurations name them: by import path, or short."""

from __future__ import annotations

import importlib
import inspect

from lit_cvit.utils.suggest import unknown

_SHIPPED = ("lit_cvit", "callbacks", "lightning")


def find_class(base: type, name: str) -> type:
    """A class below a base.

    Raises:
        ValueError: there is no such class; names the nearest.
    """
    module, _, short = name.rpartition(".")
    if not module:
        found = next((each for each in _subclasses(base) if each.__name__ == name), None)
        if found is None:
            known = unknown("class", name, class_names(base))
            raise ValueError(f"{known}; or the import path of your own (package.Class)")
        return found
    try:
        named: object = getattr(importlib.import_module(module), short)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {name!r}: {error}") from error
    if not (isinstance(named, type) and issubclass(named, base)):
        raise ValueError(f"{name} is no {base.__name__}")
    return named


def class_names(base: type) -> list[str]:
    """Short names of the concrete classes below a base; ours before Lightning's.

    A user's own class is named by its import path.
    """
    shipped = [each for each in _subclasses(base) if each.__module__.partition(".")[0] in _SHIPPED]
    concrete = [each for each in shipped if not inspect.isabstract(each) and each.__name__[0] != "_"]
    ordered = sorted(concrete, key=lambda each: (each.__module__.startswith("lightning"), each.__name__))
    return list(dict.fromkeys(each.__name__ for each in ordered))


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return direct + [each for child in direct for each in _subclasses(child)]
