"""What jsonargparse says about a wrong configuration, in one sentence.

Its messages nest: every key, class and type of a union adds lines around the one that matters. The innermost
complaint is kept, with the whole key, the value and the nearest valid name.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from lit_cvit.utils.suggest import unknown

_KEY = re.compile(r'Parser key "(.+?)":')
_OWNER = re.compile(r"Problem with given class_path '(.+?)':")
_TYPE = re.compile(r"Expected (?:a )?(?:<class '(?P<name>[\w.]+)'>|typing\.(?P<choice>Literal\[.*?\]))")
_OPTION = re.compile(r"(?:Option|Group) '([\w.]+)' is not accepted")
_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_MODULE = re.compile(r"(?:module '.*' has no attribute|No module named) '.*'")
_PARENT = re.compile(r"Import path ([\w.]+) does not (?:.*) (\w+)$")
_REQUIRED = re.compile(r'(?:Key "|the following arguments are required: )([\w.]+)')
_BULLET = re.compile(r"^ *- (?!Expected|Does not validate|Problem with)(.*)", re.MULTILINE)
_VALUE = re.compile(r"Given value: (.*)")
_GOT = re.compile(r"\. Got value: (.*)$")
_NESTED = re.compile(r"NestedArg\(key='.*?', val=(.*)\)")
_SHIPPED = ("lit_cvit", "callbacks", "lightning")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list such as [a, b]",
    "tuple": "a list such as [a, b]",
    "dict": "a mapping such as {key: value}",
}


@dataclass(frozen=True)
class Vocabulary:
    """What a configuration may hold.

    Attributes:
        keys: Dotted keys that every configuration has.
        bases: Base class of the objects under a key, by the last part of the key.
    """

    keys: tuple[str, ...]
    bases: Mapping[str, type]


@dataclass(frozen=True)
class _Complaint:
    text: str
    indent: int
    key: str
    owner: str
    value: str | None = None

    @property
    def depth(self) -> int:
        return 2 * self.key.count(".") + bool(self.owner) + bool(_TYPE.match(self.text))


def plain(message: str, vocabulary: Vocabulary) -> str:
    """Rewrite a parser's message; one that is not understood comes back as it is."""
    for pattern, rewrite in (
        (r"unrecognized arguments: (\S+)", _unknown_argument),
        (r"Subcommand '\w+' does not accept option '([\w.]+)'", _unknown_key),
        (r"Option '([\w.]+)' is not accepted$", _unknown_key),
        (r"the following arguments are required: (?:\w+\.)?(model)", _no_method),
    ):
        if match := re.match(pattern, message):
            return rewrite(match[1], vocabulary)
    complaints = _complaints(message)
    if not complaints:
        # An error of a constructor: one of the reasons why a union of types does not take the value.
        reasons = _BULLET.findall(message) if "Union subtypes" in message else []
        return "; ".join(reasons) or message
    deepest = max(complaint.depth for complaint in complaints)
    return _sentence([each for each in complaints if each.depth == deepest], vocabulary)


def _complaints(message: str) -> list[_Complaint]:
    """The leaves of a message, without those that a None among the types adds."""
    found: list[_Complaint] = []
    context: list[tuple[int, str, str]] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if not text:
            continue
        indent = len(line) - len(line.lstrip())
        while context and context[-1][0] >= indent:
            context.pop()
        key = ".".join(each[1] for each in context if each[1])
        owner = next((each[2] for each in reversed(context) if each[2]), "")
        if match := _KEY.match(text):
            context.append((indent, match[1], ""))
        elif match := _OWNER.match(text):
            context.append((indent, "", match[1]))
        elif match := _VALUE.match(text):
            found = [_with_value(each, match[1], indent) for each in found]
        elif any(pattern.match(text) for pattern in (_TYPE, _OPTION, _CLASS, _MODULE, _PARENT, _REQUIRED)):
            got = _GOT.search(text)
            found.append(_Complaint(text, indent, key, owner, got[1] if got else None))
    return [each for each in found if "NoneType" not in each.text]


def _with_value(complaint: _Complaint, value: str, indent: int) -> _Complaint:
    if complaint.value is not None or complaint.indent < indent:
        return complaint
    nested = _NESTED.match(value)
    return replace(complaint, value=nested[1].strip("'") if nested else value)


def _sentence(complaints: list[_Complaint], vocabulary: Vocabulary) -> str:
    first = complaints[0]
    text, key = first.text, first.key
    if match := _OPTION.match(text):
        return f"{key} ({_leaf(first.owner)}): {unknown('setting', match[1], _settings(first.owner))}"
    if match := _CLASS.match(text):
        names = _classes(vocabulary.bases.get(_leaf(key)))
        return f"{key}: {unknown('class', match[1], names)}; or the import path of your own (package.Class)"
    if _MODULE.match(text):
        return f"{key}: cannot import {first.value or first.owner!r}: {text}"
    if match := _PARENT.match(text):
        return f"{key}: {match[1]} is no {match[2]}"
    if match := _REQUIRED.match(text):
        return f"{key}: {_leaf(first.owner) or 'it'} needs the setting {match[1]!r}, and there is none"
    wanted = [_wanted(each.text, first.value) for each in complaints]
    return f"{key}: got {first.value!r}; it must be {' or '.join(dict.fromkeys(wanted))}"


def _wanted(text: str, value: str | None) -> str:
    match = _TYPE.match(text)
    assert match is not None
    if match["name"]:
        return _WORDS.get(match["name"], f"of type {match['name']}")
    choices = [str(choice) for choice in ast.literal_eval(match["choice"].removeprefix("Literal"))]
    near = difflib.get_close_matches(value or "", choices, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return f"one of {', '.join(choices)}{hint}"


def _unknown_argument(argument: str, vocabulary: Vocabulary) -> str:
    name = argument.partition("=")[0]
    if not name.startswith("--"):
        return f"got {name!r}, which belongs to no option; `--config {name}` names a configuration"
    near = _nearest(name.removeprefix("--"), vocabulary)
    hint = f"Did you mean --{near}?" if near else "`--help` lists the options"
    return f"unknown option {name}. {hint}"


def _unknown_key(key: str, vocabulary: Vocabulary) -> str:
    near = _nearest(key, vocabulary)
    hint = f"Did you mean {near!r}?" if near else "`--help` lists the options, which are the keys"
    return f"unknown key {key!r}. {hint}"


def _no_method(key: str, vocabulary: Vocabulary) -> str:
    return (
        f"no method ({key}) is named; start with `--config quickstart`, or give your own configuration. "
        f"Known: {', '.join(_classes(vocabulary.bases[key]))}"
    )


def _nearest(key: str, vocabulary: Vocabulary) -> str:
    """The valid key that a wrong one most probably means: same parent first, then same name elsewhere."""
    parent, _, leaf = key.rpartition(".")
    head = key.partition(".")[0]
    below = [each for each in vocabulary.keys if each.rpartition(".")[0] == parent]
    siblings = {each.rpartition(".")[2]: each for each in below}
    tops = {each.partition(".")[0] for each in vocabulary.keys}
    whole = {each: each for each in vocabulary.keys}
    leaves = {each.rpartition(".")[2]: each for each in reversed(vocabulary.keys)}
    search: list[Callable[[], str]] = [
        partial(_close, leaf, siblings),
        partial(_close, key, whole, cutoff=0.85),
        partial(_close, leaf, leaves, cutoff=0.65),
    ]
    if head not in tops:
        search.insert(0, partial(_close, head, {each: key.replace(head, each, 1) for each in tops}))
    return next((found for look in search if (found := look())), "")


def _close(name: str, options: Mapping[str, str], *, cutoff: float = 0.7) -> str:
    near = difflib.get_close_matches(name, options, n=1, cutoff=cutoff)
    return options[near[0]] if near else ""


def _settings(owner: str) -> list[str]:
    """Names that the constructor of a class and of its parents take."""
    module, _, name = owner.rpartition(".")
    cls: type = getattr(importlib.import_module(module), name)
    names = [name for parent in cls.__mro__ for name in inspect.signature(parent).parameters]
    return [name for name in dict.fromkeys(names) if name not in ("self", "args", "kwargs")]


def _classes(base: type | None) -> list[str]:
    """Names of the concrete classes below a base, as a configuration may write them; ours before others'."""
    if base is None:
        return []
    # Short names are those of what ships; a user's own class is named by its import path.
    shipped = [each for each in _subclasses(base) if each.__module__.partition(".")[0] in _SHIPPED]
    concrete = [
        each for each in shipped if not inspect.isabstract(each) and not each.__name__.startswith("_")
    ]
    ordered = sorted(concrete, key=lambda each: (each.__module__.startswith("lightning"), each.__name__))
    return list(dict.fromkeys(each.__name__ for each in ordered))


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return direct + [each for child in direct for each in _subclasses(child)]


def _leaf(dotted: str) -> str:
    return dotted.rpartition(".")[2]
