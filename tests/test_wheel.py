"""A wheel holds what a user needs: code, weights, word lists, instruction strings, configurations."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("lit_cvit", "callbacks", "configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel that is built in a copy, as the build writes beside the sources."""
    build_meta = pytest.importorskip("setuptools.build_meta")
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        name = build_meta.build_wheel(str(source / "dist"))
    return set(zipfile.ZipFile(source / "dist" / name).namelist())


def test_wheel_holds_every_file_of_the_shipped_folders_and_no_other(wheel: set[str]) -> None:
    files = {
        str(path.relative_to(ROOT))
        for folder in SHIPPED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel if ".dist-info/" not in name} == files


def test_wheel_holds_weights_words_instructions_and_quickstart(wheel: set[str]) -> None:
    assert wheel >= {
        "lit_cvit/backbones/tiny_weights/model.safetensors",
        "lit_cvit/backbones/tiny_weights/tokenizer.json",
        "lit_cvit/miniature/words.txt",
        "lit_cvit/data/instructions/cvit.json",
        "callbacks/stage_evaluation.py",
        "configs/quickstart.yaml",
        "configs/methods/smolora.yaml",
    }
