"""`general`: POPE, MME, MMBench and SEED-Bench, asked of a run to see what tuning cost.

They are only tested: `python -m lit_cvit test --run runs/x --benchmark general --root DIR`. The files are the
owners', laid out as for LLaVA's evaluation; each module of this package says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_cvit.data.benchmarks.general.suites import read_tasks, suites
from lit_cvit.data.tasks import Benchmark
from lit_cvit.utils.suggest import unknown

__all__ = ["general", "read_tasks", "suites"]


def general(
    *, root: str | None = None, tasks: Sequence[str] | None = None, limit: int | None = None
) -> Benchmark:
    """Read the general benchmarks as downstream tasks.

    Args:
        root: Folder of the benchmarks' own folders.
        tasks: Names of those to ask; all by default.
        limit: Ask at most so many questions (MME: images) of each subset, category or type (MMBench: in all).

    Raises:
        ValueError: a setting is wrong, files are missing (all of them are named), or a record is bad.
    """
    known = suites()
    names = list(dict.fromkeys(known if tasks is None else tasks))
    for name in names:
        if name not in known:
            raise ValueError(f"tasks of general: {unknown('task', name, known)}")
    if not names:
        raise ValueError(f"tasks of general: got none; known: {', '.join(known)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit of general: got {limit}; it must be at least 1")
    if root is None:
        raise ValueError("general needs its setting 'root' (`--root` of `test`): the folder of its files")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"root of general: no folder {folder}; it holds the benchmarks' own folders")
    asked = [known[name] for name in names]
    return Benchmark(name="general", stream=(), downstream=read_tasks(asked, folder, limit))
