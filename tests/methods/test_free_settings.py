"""Settings that may differ when a run is opened again are settings that methods and backbones have."""

from __future__ import annotations

import inspect

import pytest

import lit_cvit
from lit_cvit.backbones.base import Backbone
from lit_cvit.methods import ContinualMethod
from lit_cvit.utils.recorded import RecordedSettings


def families(base: type[RecordedSettings]) -> list[type[RecordedSettings]]:
    return [base, *(each for below in base.__subclasses__() for each in families(below))]


@pytest.mark.parametrize(
    "kind",
    [
        each
        for base in (ContinualMethod, Backbone)
        for each in families(base)
        if each.__module__.startswith(lit_cvit.__name__)
    ],
)
def test_free_settings_are_settings_of_the_class_that_lists_them(kind: type[RecordedSettings]) -> None:
    own = vars(kind).get("free_settings", ())
    taken = {
        name
        for base in kind.__mro__
        for name in inspect.signature(vars(base).get("__init__", object.__init__)).parameters
    }
    assert [name for name in own if name not in taken] == []


def test_what_gives_tensors_their_meaning_is_no_free_setting() -> None:
    free = {name for kind in families(ContinualMethod) for name in vars(kind).get("free_settings", ())}
    assert not free & {"rank", "alpha", "targets", "projector", "train", "scaling", "top_k", "temperature"}
