"""Configurations that ship with the package, found by a bare name from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cvit.utils.suggest import unknown
from lit_cvit.utils.yaml_file import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEPS = CONFIGS / "sweeps"


def find_config(name: str) -> Path:
    """Find a configuration: a file, or the bare name of a shipped one (`quickstart`, `methods/smolora`).

    Raises:
        ValueError: there is no such file and no shipped configuration of that name.
    """
    found = {bare: path for bare, path in _shipped(CONFIGS).items() if SWEEPS not in path.parents}
    return _find(name, found, prefix="configs/", what="shipped configuration", place="--config: ")


def find_sweep(name: str) -> Path:
    """Find a sweep: a file, or the bare name of a shipped one (`cvit_mini`).

    Raises:
        ValueError: there is no such file and no shipped sweep of that name.
    """
    return _find(name, _shipped(SWEEPS), prefix="configs/sweeps/", what="shipped sweep", place="")


def _shipped(folder: Path) -> dict[str, Path]:
    return {str(each.relative_to(folder).with_suffix("")): each for each in folder.rglob("*.yaml")}


def _find(name: str, shipped: dict[str, Path], *, prefix: str, what: str, place: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    bare = name.removesuffix(".yaml").removeprefix(prefix)
    if bare in shipped:
        return shipped[bare]
    raise ValueError(f"{place}no file {name!r}; {unknown(what, bare, sorted(shipped))}")


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain values.

    Raises:
        ValueError: the file is not UTF-8, not YAML, has a key twice, or is no mapping; names file and line.
    """
    return read_yaml(path, content="of settings such as `model:`", place=f"--config {path}")
