"""What the tests of this folder share: golden cases, published numbers and a stand-in for a sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Answered:
    """The part of a sample that scorers read."""

    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


def golden(name: str) -> dict[str, Any]:
    """A recorded file of the official tools; see the SOURCE files beside it."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def golden_cases(name: str) -> list[dict[str, Any]]:
    """The cases of a recorded file, without those whose prediction is missing."""
    return [case for case in golden(name)["cases"] if case.get("prediction", "") is not None]


def published(name: str) -> dict[str, dict[str, Any]]:
    """Published numbers by the name of their table; see data/SOURCE.md."""
    return {row["name"]: row for row in json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))}
