"""docs/migration.md: what it calls new is there, and what it calls old is not."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from lit_cvit import ContinualMethod, ContinualTrainer, StageCallback

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text(encoding="utf-8")
CLASSES = {each.__name__: each for each in (ContinualMethod, ContinualTrainer, StageCallback)}


def table(title: str) -> list[list[str]]:
    """The cells of the table below a title, without its head."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def exists(dotted: str) -> bool:
    """Whether a dotted name leads to a module, or to what a module holds."""
    home, _, name = dotted.rpartition(".")
    try:
        found = importlib.import_module(home)
    except ModuleNotFoundError:
        return False
    is_package = hasattr(found, "__path__")
    return hasattr(found, name) or (is_package and importlib.util.find_spec(dotted) is not None)


ROWS = [row for title in ("Classes and options", "Functions", "Modules") for row in table(title)]


@pytest.mark.parametrize(("old", "new"), ROWS)
def test_a_new_name_leads_somewhere_and_an_old_one_nowhere(old: str, new: str) -> None:
    names = re.findall(r"`(lit_cvit[\w.]+)`", f"{old} {new}")
    assert len(names) >= 2
    assert [exists(name) for name in names] == [False, *[True] * (len(names) - 1)]


@pytest.mark.parametrize(("owner", "old", "new"), table("Hooks and properties"))
def test_a_hook_has_its_new_name_alone(owner: str, old: str, new: str) -> None:
    cls = CLASSES[owner.strip("`")]
    assert hasattr(cls, new.strip("`"))
    assert not hasattr(cls, old.strip("`"))
