"""Conventions that a program can check, on every file of the repository."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("lit_cvit", "callbacks")
MAX_LINES, MAX_FUNCTION_LINES = 400, 50
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "examples", "benchmarks", "docs", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
LIBRARY = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in LIBRARY
    if path.name != "__main__.py"
)
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
ABSOLUTE = re.compile(r"^(/(home|root|work|tmp|mnt|data|opt|usr|var|Users)/|[A-Za-z]:\\)")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def body_lines(node: FUNCTIONS) -> int:
    """Lines of a function without its signature and its docstring."""
    assert node.end_lineno is not None
    first = node.body[0]
    docstring = 0
    if ast.get_docstring(node) is not None:
        assert first.end_lineno is not None
        docstring = first.end_lineno - first.lineno + 1
    return node.end_lineno - first.lineno + 1 - docstring


def own(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Public classes and functions that a module defines itself."""
    for name, value in vars(module).items():
        mine = getattr(value, "__module__", None) == module.__name__
        if mine and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def test_no_file_has_more_than_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_two_test_files_have_one_name() -> None:
    # pytest would import the first for both, and collect nothing of the other.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_has_more_than_50_lines() -> None:
    long = {
        f"{name_of(path)}:{node.name}": body_lines(node)
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, FUNCTIONS) and body_lines(node) > MAX_FUNCTION_LINES
    }
    assert long == {}


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches everything, or catches `Exception` and does nothing."""
    if handler.type is None:
        return True
    idle = all(isinstance(node, ast.Pass | ast.Continue) for node in handler.body)
    return idle and ast.unparse(handler.type) in ("Exception", "BaseException")


def test_no_handler_swallows_every_exception() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("try:\n    f()\nexcept:\n    g()\n", True),
        ("try:\n    f()\nexcept Exception:\n    pass\n", True),
        ("try:\n    f()\nexcept ValueError:\n    pass\n", False),
        ("try:\n    f()\nexcept Exception:\n    raise\n", False),
    ],
)
def test_swallowing_handlers_are_recognised(code: str, bad: bool) -> None:
    (handler,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ExceptHandler))
    assert swallows(handler) is bad


def test_no_absolute_path_stands_in_the_library_and_the_examples() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}: {node.value!r}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "tests"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ABSOLUTE.match(node.value)
    ]
    assert found == []


def test_configurations_hold_no_absolute_path() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "configs").rglob("*.yaml")}
    assert texts
    assert [name_of(path) for path, text in texts.items() if re.search(r":\s*[\"']?(/|[A-Z]:\\)", text)] == []


def test_no_comment_puts_work_off() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = []
    for path in SOURCES:
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT and words.search(token.string):
                    found.append(f"{name_of(path)}:{token.start[0]}")
    assert found == []


def test_sources_are_ascii() -> None:
    library = {name_of(path): path.read_text(encoding="utf-8") for path in LIBRARY}
    assert [name for name, text in library.items() if not text.isascii()] == []


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(p) for p in LIBRARY if p.stat().st_size and not ast.get_docstring(tree_of(p))]
    assert [name for name in silent if not name.endswith("_version.py")] == []


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name: str) -> None:
    missing = []
    for public, value in own(importlib.import_module(name)):
        if not inspect.getdoc(value):
            missing.append(public)
        if inspect.isclass(value):
            # A method that overrides one inherits its docstring.
            missing += [
                f"{public}.{method}"
                for method, function in vars(value).items()
                # The name of a test says what it claims.
                if not method.startswith(("_", "test_"))
                and inspect.isfunction(function)
                and not inspect.getdoc(getattr(value, method))
                and not _is_hook(value, method)
            ]
    assert missing == []


def _is_hook(cls: type, method: str) -> bool:
    """Whether a method overrides one of a library, which may have no docstring itself."""
    return any(method in vars(parent) for parent in cls.__mro__[1:])


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_each_public_name_once_in_order(name: str) -> None:
    module = importlib.import_module(name)
    listed = vars(module).get("__all__")
    if listed is None:
        assert own_package_reexports(module) == set(), f"{name} re-exports names without __all__"
        return
    assert len(listed) == len(set(listed))
    assert [each for each in listed if each not in dir(module) and getattr(module, each, None) is None] == []
    assert own_package_reexports(module) <= set(listed)


def own_package_reexports(module: ModuleType) -> set[str]:
    """Names that a package's `__init__` takes from its own modules."""
    path = Path(str(module.__file__))
    if path.name != "__init__.py":
        return set()
    return {
        alias.asname or alias.name
        for node in tree_of(path).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{module.__name__}.")
        for alias in node.names
        if not alias.name.startswith("_")
    }


def test_lazy_public_names_are_those_of_all() -> None:
    import lit_cvit

    lazy = {name for names in lit_cvit._HOMES.values() for name in names}
    assert lazy | {"__version__"} == set(lit_cvit.__all__)
    assert [name for name in lit_cvit.__all__ if getattr(lit_cvit, name) is None] == []
    with pytest.raises(AttributeError, match="module 'lit_cvit' has no attribute 'SeqLora'"):
        lit_cvit.SeqLora  # noqa: B018


def test_every_benchmark_script_is_listed_with_its_command() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    paths = (ROOT / "benchmarks").glob("*.py")
    scripts = [path.name for path in paths if "__main__" in path.read_text(encoding="utf-8")]
    assert scripts
    assert [name for name in scripts if f"python benchmarks/{name} " not in page] == []
