"""Names of run folders and of the files in them, and hints for a path that is not a run."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path


def file_name(name: str) -> str:
    """A name that is safe as a file name on every system; names that differ stay different."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].strip(".") or "_"
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def usual_name(method: str, benchmark: str) -> str:
    """Name of a run's folder where none is given."""
    return f"{method}-{benchmark}".lower()


def new_folder(root: Path, name: str) -> Path:
    """Make a folder that did not exist: `name`, or `name-2`, `name-3` ..."""
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def nearest_run(path: Path, *, marker: str) -> str:
    """The end of an error message: the runs whose names are near that of a missing `path`, or nothing."""
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    names = [other.parent.name for other in path.parent.glob(f"*/{marker}")]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f"; did you mean {', '.join(str(path.parent / name) for name in close)}?" if close else ""


def runs_below(path: Path, *, marker: str) -> str:
    """The end of an error message: the runs that a folder holds, or nothing."""
    names = sorted(other.parent.name for other in path.glob(f"*/{marker}"))
    return f"; it holds the runs {', '.join(names)}" if names else ""
