"""The general benchmarks that are asked of any run: each other module of this package holds one `SUITE`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path

from lit_cvit.data.benchmarks.general.base import Suite
from lit_cvit.data.tasks import Task

_SHARED = ("base", "suites", "table")
_FOLDER = Path(__file__).parent


def suites() -> dict[str, Suite]:
    """The general benchmarks by name."""
    names = [module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if module.name not in _SHARED]
    found: list[Suite] = [importlib.import_module(f"{__package__}.{name}").SUITE for name in names]
    return {suite.name: suite for suite in found}


def read_tasks(asked: Sequence[Suite], root: Path, limit: int | None) -> tuple[Task, ...]:
    """Read benchmarks as tasks; one that is broken or missing does not hide the problems of another.

    Args:
        asked: The benchmarks.
        root: Folder of the benchmarks' own folders.
        limit: At most so many questions of each part (see `Suite`).

    Raises:
        ValueError: files are missing (all of them are named), or a record is bad (the first of each
            benchmark is named).
    """
    tasks, missing, broken = [], [], []
    for suite in asked:
        absent = suite.missing(root)
        missing += absent
        if absent:
            continue
        try:
            tasks.append(suite.task(root, limit))
        except ValueError as error:
            broken.append(f"{suite.name}: {error}")
    problems = []
    if missing:
        hint = "fetch them, or name the tasks whose files you have"
        problems.append(f"{len(missing)} files or folders are missing; {hint}")
    if broken:
        problems.append("some files are broken; the first problem of each benchmark is shown")
    if problems:
        listed = "\n".join(f"  {each}" for each in (*missing, *broken))
        raise ValueError(f"general: {'; '.join(problems)}\n{listed}")
    return tuple(tasks)
