"""Configurations that ship with the package, found by a bare name from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cvit.utils.suggest import unknown
from lit_cvit.utils.yaml_file import read_yaml

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
        ValueError: the file is not UTF-8, not YAML, has a key twice, or is no mapping; names file and line.
    """
    return read_yaml(path, content="of settings such as `model:`", place=f"--config {path}")
