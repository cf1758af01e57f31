"""RecordedSettings: what an object was built with, by whatever way."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import torch
from torch import nn

from lit_cvit.utils.recorded import RecordedSettings


class Base(RecordedSettings, nn.Module):
    free_settings: ClassVar[tuple[str, ...]] = ("path",)

    def __init__(self, path: str, size: int = 3, groups: tuple[str, ...] = ("a",), part: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 1)


class Derived(Base):
    free_settings: ClassVar[tuple[str, ...]] = ("pace",)

    def __init__(self, path: str, groups: tuple[str, ...] = ("b", "c"), pace: int = 1, **kwargs: Any) -> None:
        super().__init__(path, groups=groups, **kwargs)


class Quiet(Derived):
    """Takes what its base takes."""


def test_defaults_of_all_bases_count_and_given_settings_come_first() -> None:
    assert Base("here").recorded_settings() == {"size": 3, "groups": ["a"], "part": None}
    assert Derived("here").recorded_settings() == {"size": 3, "groups": ["b", "c"], "part": None}
    assert Quiet("here", ("d",), size=5).recorded_settings() == {"size": 5, "groups": ["d"], "part": None}


def test_free_settings_of_all_bases_are_left_out() -> None:
    found = Derived(path="there", pace=7).recorded_settings()
    assert not {"path", "pace"} & found.keys()


def test_objects_are_left_out() -> None:
    assert "part" not in Base("here", part=torch.zeros(1)).recorded_settings()
    given = {"deep": [1, {"x": None}]}
    assert Base("here", part=given).recorded_settings()["part"] == given


def test_copies_have_the_settings_of_their_original() -> None:
    made = Derived("here", size=4)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.recorded_settings() == made.recorded_settings()
