"""Which rows of the method matrix a run of the tests takes, and the record of those that have passed.

A row's digest covers the files that decide its outcome: its method's own, its callbacks', and what all
methods stand on. `.ci/matrix.json` holds the digest with which a row last passed as a whole, so `--rows due`
goes on where an interrupted run of the matrix stopped, and `--rows turn` runs what has changed and a quarter
of the rest.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RECORD = ROOT / ".ci" / "matrix.json"
SHARED = (
    "methods/*.py",
    "adapters",
    "stream",
    "data",
    "backbones",
    "run",
    "testing",
    "evaluation.py",
    "encoders.py",
)
TURNS = 4


def shared_files() -> list[Path]:
    """Files that every row stands on."""
    found: list[Path] = []
    for name in SHARED:
        for path in (ROOT / "lit_cvit").glob(name):
            found += path.rglob("*.py") if path.is_dir() else [path]
    return [path for path in found if "prepare" not in path.parts]


def own_files(method: type, callbacks: Iterable[type]) -> list[Path]:
    """Files of a row alone: its method's, those of methods that it inherits from, and its callbacks'."""
    from lit_cvit.methods.base import ContinualMethod

    found: set[Path] = set()
    for each in method.__mro__:
        if issubclass(each, ContinualMethod) and each is not ContinualMethod:
            path = Path(inspect.getfile(each))
            found |= set(path.parent.glob("*.py")) if path.parent.parent.name == "methods" else {path}
    return sorted(found | {Path(inspect.getfile(each)) for each in callbacks})


def digest(files: Iterable[Path]) -> str:
    """A digest of names and contents of files."""
    hasher = hashlib.sha256()
    for path in sorted(set(files)):
        hasher.update(path.name.encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


def row_digest(row: Any, shared: list[Path]) -> str:
    """The digest of a row as it stands now; its settings count."""
    import callbacks
    from lit_cvit.methods import ContinualMethod

    by_name = {each.__name__: each for each in _below(ContinualMethod)}
    method = by_name[row.method.rpartition(".")[2]] if row.method in by_name else _imported(row.method)
    used = [getattr(callbacks, each["class_path"]) for each in row.callbacks]
    return digest([*shared, *own_files(method, used)]) + hashlib.sha256(repr(row).encode()).hexdigest()[:8]


def _below(family: type) -> list[type]:
    direct: list[type] = family.__subclasses__()
    return direct + [each for child in direct for each in _below(child)]


def _imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(__import__(module, fromlist=[name]), name)
    return found


def turn() -> int:
    """The number of commits, so that every push takes another quarter of the rows."""
    counted = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(counted.stdout) if counted.returncode == 0 else 0


def passed_rows() -> dict[str, str]:
    """The digest with which each row last passed."""
    found: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return found


def choose(items: list[pytest.Item], which: str) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Split collected tests into those that run and those that do not; marks the former for `Recorder`."""
    rows: dict[str, list[pytest.Item]] = defaultdict(list)
    others = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        made = callspec.params.get("made") if callspec is not None else None
        if made is None:
            others.append(item)
        else:
            rows[made].append(item)
    before, shared, quarter = passed_rows(), shared_files() if rows else [], turn() % TURNS
    chosen, left = [], []
    for number, (name, tests) in enumerate(sorted(rows.items())):
        now = row_digest(tests[0].cls.rows[name], shared)  # type: ignore[attr-defined]
        due = before.get(name) != now or (which == "turn" and number % TURNS == quarter)
        (chosen if which == "all" or due else left).extend(tests)
        for item in tests:
            item.user_properties.append(("matrix_row", [name, now, len(tests)]))
    order = {id(item): number for number, item in enumerate(items)}
    return sorted([*others, *chosen], key=lambda item: order[id(item)]), left


class Recorder:
    """Writes down each row whose tests have all passed."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that passed, or was skipped by its row's own word."""
        row = dict(report.user_properties).get("matrix_row")
        done = report.when == "call" or (report.when == "setup" and report.skipped)
        if row is None or not done or report.failed:
            return
        name, now, total = row
        self.passed[name] += 1
        if self.passed[name] == total:
            rows = {**passed_rows(), name: now}
            RECORD.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
