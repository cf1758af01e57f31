"""General benchmarks, asked of any run to see what tuning cost: each module here holds one `SUITE`."""

from __future__ import annotations

import importlib
import pkgutil

from lit_cvit.data.general.base import Suite

__all__ = ["Suite", "suites"]

_SHARED = ("base", "table")


def suites() -> dict[str, Suite]:
    """The general benchmarks by name."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED]
    found: list[Suite] = [importlib.import_module(f"{__name__}.{name}").SUITE for name in names]
    return {suite.name: suite for suite in found}
