"""analyze: look inside a finished run's model; `analyze --help` lists the analyses.

Every module of this package is an analysis: its docstring's first line says what it does, its `run` does it.
"""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections.abc import Sequence

from lit_cvit.cli.errors import CleanExit
from lit_cvit.utils.suggest import unknown


def run(argv: Sequence[str]) -> int:
    """Run the analysis that the first argument names."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    name, rest = argv[0], argv[1:]
    if name not in _analyses():
        raise CleanExit(unknown("analysis", name, _analyses()))
    status: int = importlib.import_module(f"{__name__}.{name}").run(rest)
    return status


def _analyses() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _help() -> str:
    lines = ["usage: lit_cvit analyze ANALYSIS --run RUN [options]", "", "analyses:"]
    for name in _analyses():
        about = importlib.import_module(f"{__name__}.{name}").__doc__ or ""
        summary = about.strip().splitlines()[0].split(": ", 1)[-1]
        lines += textwrap.wrap(summary, 96, initial_indent=f"  {name:10}", subsequent_indent=" " * 12)
    return "\n".join([*lines, "", "`analyze ANALYSIS --help` lists an analysis's options."])
