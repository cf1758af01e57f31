"""Configurations that ship with the package, found by a bare name from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lit_cvit.utils.suggest import unknown

CONFIGS = Path(__file__).parents[2] / "configs"


def find_config(name: str) -> Path:
    """Find a configuration: a file, or the bare name of a shipped one (`quickstart`, `methods/smolora`).

    Raises:
        ValueError: there is no such file and no shipped configuration of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {str(each.relative_to(CONFIGS).with_suffix("")): each for each in CONFIGS.rglob("*.yaml")}
    bare = name.removesuffix(".yaml").removeprefix("configs/")
    if bare in shipped:
        return shipped[bare]
    raise ValueError(f"--config: no file {name!r}; {unknown('shipped configuration', bare, sorted(shipped))}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain values.

    Raises:
        ValueError: the file is not UTF-8, not YAML, or not a mapping; names file and line.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise ValueError(f"--config {path}: broken YAML, {line}{problem}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: want a mapping of settings such as `model:`, got {values!r:.60}")
    return values
