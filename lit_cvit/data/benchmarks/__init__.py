"""Benchmarks by name: module `x_y` of this package holds the function `x_y` that builds benchmark `x-y`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_cvit.data.tasks import Benchmark
from lit_cvit.utils.suggest import unknown

_SUFFIXES = (".yaml", ".yml")
_SHARED = ("prepared", "prepared_files", "settings")


def benchmark_names() -> tuple[str, ...]:
    """Names of the benchmarks that ship with the package."""
    return tuple(sorted(name.replace("_", "-") for name in _builders() if name != "custom"))


def load_benchmark(
    name: str, settings: Mapping[str, Any], *, tasks: Sequence[str] | None = None
) -> Benchmark:
    """Build a benchmark.

    Args:
        name: Name of a shipped benchmark, or the path of a YAML file for `custom`.
        settings: Keyword arguments of the benchmark's builder.
        tasks: Names of the tasks to learn, for a benchmark that then does without the others' files.

    Raises:
        ValueError: the name or a setting is unknown, or the benchmark is not as it should be.
    """
    builders = _builders()
    if name.endswith(_SUFFIXES):
        if not Path(name).is_file():
            raise ValueError(f"data.benchmark: no file {name}")
        if settings:
            raise ValueError(f"data.settings of {name}: got {', '.join(settings)}; a .yaml file takes none")
        return _call(builders["custom"], name, {"path": name}, None)
    shipped = {each.replace("_", "-"): each for each in builders if each != "custom"}
    if name not in shipped:
        hint = "; for your own data give the path of a .yaml file"
        raise ValueError(f"data.benchmark: {unknown('benchmark', name, shipped)}{hint}")
    return _call(builders[shipped[name]], name, dict(settings), tasks)


def _builders() -> dict[str, str]:
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name: f"{__name__}.{name}" for name in modules if name not in _SHARED}


def _call(module: str, name: str, settings: dict[str, Any], tasks: Sequence[str] | None) -> Benchmark:
    build: Callable[..., Benchmark] = getattr(importlib.import_module(module), module.rpartition(".")[2])
    known = inspect.signature(build).parameters
    for key in settings:
        if key not in known:
            raise ValueError(f"data.settings of {name}: {unknown('setting', key, known)}")
    if tasks is not None and "tasks" in known:
        settings["tasks"] = list(tasks)
    return build(**settings)
