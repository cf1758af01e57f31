"""The map of the code: the picture is that of today's imports, and the page leads to files that exist."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_the_committed_picture_is_the_one_that_is_drawn(drawing: ModuleType) -> None:
    again = "run `python docs/draw_architecture.py`"
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.svg(), again


def test_the_picture_has_every_package_once_and_no_other(drawing: ModuleType) -> None:
    shown = re.findall(r'id="package-(\w+)"', drawing.PICTURE.read_text(encoding="utf-8"))
    folders = [path.parent.name for path in (ROOT / "lit_cvit").glob("*/__init__.py")]
    assert sorted(shown) == sorted([*folders, "callbacks", "encoders", "evaluation"])


def test_a_package_stands_above_all_that_it_imports(drawing: ModuleType) -> None:
    row_of = {name: number for number, names in enumerate(drawing.rows()) for name in names}
    assert row_of["commands"] < row_of["stream"] < row_of["methods"] < row_of["backbones"] < row_of["data"]
    assert row_of["report"] < row_of["metrics"] < row_of["utils"]


def test_a_package_without_a_purpose_is_refused(drawing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(drawing.PURPOSE, "probing")
    with pytest.raises(ValueError, match="differ in probing"):
        drawing.svg()


def test_the_files_of_every_step_exist_and_the_page_links_them(drawing: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    paths = [drawing.source_of(file) for step in drawing.STEPS for file in step.files]
    assert [path for path in paths if not path.is_file()] == []
    assert [path for path in paths if f"](../{path.relative_to(ROOT).as_posix()})" not in page] == []


def test_every_link_of_the_page_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(links) > 30
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_the_page_names_every_package(drawing: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in drawing.PURPOSE if not re.search(rf"\b{name}\b", page)] == []
