"""Prepares benchmarks from the data sets as their owners publish them.

Every module of this package but the shared ones holds the `CONVERTER` of one task; see `base` for those.
Nothing here imports torch, so that it runs on a machine that only holds data.
"""

from __future__ import annotations

import importlib
import pkgutil

from lit_cvit.data.prepare.base import Converter
from lit_cvit.utils.suggest import unknown

__all__ = ["Converter", "benchmark_names", "converters", "converters_of"]

_SHARED = ("base", "drawing", "locating", "running", "scanning", "storing", "writing")


def converters() -> list[Converter]:
    """Every converter, in the order of their modules' names."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED]
    return [importlib.import_module(f"{__name__}.{name}").CONVERTER for name in names]


def benchmark_names() -> list[str]:
    """Names of the benchmarks that can be prepared."""
    return sorted({benchmark for converter in converters() for benchmark in converter.splits})


def converters_of(benchmark: str, tasks: list[str] | None = None) -> list[Converter]:
    """The converters of a benchmark, or of some of its tasks, in the order asked for.

    Raises:
        ValueError: the benchmark or a task is unknown; lists the known ones.
    """
    if benchmark not in benchmark_names():
        raise ValueError(f"--benchmark: {unknown('benchmark', benchmark, benchmark_names())}")
    known = {converter.task: converter for converter in converters() if benchmark in converter.splits}
    for task in tasks or ():
        if task not in known:
            raise ValueError(f"--tasks: {unknown(f'task of {benchmark}', task, known)}")
    return [known[task] for task in dict.fromkeys(tasks or known)]
