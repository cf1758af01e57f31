"""Conditions of a run: what counts as a change, and how it is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_kit import make_run

from lit_cvit.run import KINDS, Change, Conditions, RunRecord, changes, in_words, kinds_of
from lit_cvit.stream.conditions import require_same

BEFORE = Conditions(
    versions={"tiny": 1, "cvit-mini": 1},
    backbone="b",
    encoders={"mini": {"source": "hub", "digest": "e"}},
    settings={"model.alpha": 8.0, "model.encoder": "mini"},
    data={"colour": "d", "colour train": "t"},
    images={"colour": {"root": "images", "digest": "i"}},
    scoring={"colour": {"scorer": "exact", "max_new_tokens": 12}},
)


def test_the_same_conditions_are_no_change() -> None:
    assert changes(BEFORE, BEFORE) == []


@pytest.mark.parametrize(
    ("now", "expected", "words"),
    [
        (
            {"versions": {"tiny": 2, "cvit-mini": 1}},
            Change("backbone", "version of tiny", 1, 2),
            "the version of tiny was 1, now it is 2",
        ),
        (
            {"versions": {"tiny": 1, "cvit-mini": 2}},
            Change("data", "version of cvit-mini", 1, 2),
            "the version of cvit-mini was 1, now it is 2",
        ),
        (
            {"backbone": "c"},
            Change("backbone", "backbone digest", "b", "c"),
            "the backbone digest was b, now it is c",
        ),
        (
            {"encoders": {"mini": {"source": "folder", "digest": "f"}}},
            Change("encoders", "encoder mini", "hub (e)", "folder (f)"),
            r"the encoder mini was hub \(e\), now it is folder \(f\)",
        ),
        (
            {"settings": {"model.alpha": 16.0}},
            Change("settings", "setting model.alpha", 8.0, 16.0),
            "the setting model.alpha was 8.0, now it is 16.0",
        ),
        ({"data": {"colour": "x"}}, Change("data", "data of colour", "d", "x"), "the data of colour changed"),
        (
            {"images": {"colour": {"root": "other", "digest": "j"}}},
            Change("data", "folder of images of colour", "images (digest i)", "other (digest j)"),
            "the folder of images of colour was images",
        ),
        (
            {"scoring": {"colour": {"scorer": "letter"}}},
            Change("scoring", "scorer of colour", "exact", "letter"),
            "the scorer of colour was exact, now it is letter",
        ),
    ],
)
def test_a_change_is_named_with_what_was_and_what_is(
    now: dict[str, Any], expected: Change, words: str
) -> None:
    found = changes(BEFORE, replace(BEFORE, **now))
    assert found == [expected]
    with pytest.raises(ValueError, match=words):
        raise ValueError(in_words(found))


def test_what_one_side_does_not_hold_is_not_compared() -> None:
    assert changes(Conditions(), BEFORE) == changes(BEFORE, Conditions()) == []
    more = replace(BEFORE, settings={**BEFORE.settings, "model.new_option": 3}, data={"shape": "s"})
    assert changes(BEFORE, more) == []


def test_equal_images_and_encoders_may_lie_elsewhere() -> None:
    now = replace(
        BEFORE,
        images={"colour": {"root": "moved", "digest": "i"}},
        encoders={"models/mini": {"source": "folder", "digest": "e"}},
        settings={"model.encoder": "models/mini"},
    )
    assert changes(BEFORE, now) == []
    other = replace(now, encoders={"models/mini": {"source": "folder", "digest": "f"}})
    assert [change.what for change in changes(BEFORE, other)] == ["setting model.encoder"]


@pytest.mark.parametrize(
    ("before", "now", "agree"),
    [
        ([0.5, 0.7], [0.5, 0.7, 0.9], True),
        ([0.5, 0.7], [0.5, 0.6, 0.9], False),
        ([0.5, 0.7], [0.5], False),
        (["ffn"], ["ffn", "projector"], False),
        ([], [3], False),
    ],
)
def test_a_list_of_numbers_may_go_on_with_further_stages(before: Any, now: Any, agree: bool) -> None:
    found = changes(Conditions(settings={"model.x": before}), Conditions(settings={"model.x": now}))
    assert (found == []) is agree


def test_kinds_are_listed_once_and_in_order() -> None:
    found = [Change(kind, "", 0, 1) for kind in ("scoring", "data", "data", "backbone")]
    assert kinds_of(found) == ["backbone", "data", "scoring"]
    assert set(kinds_of(found)) <= set(KINDS)


def test_a_record_of_an_earlier_version_holds_class_and_type_of_its_backbone() -> None:
    backbone = {"class": "Llava", "digest": "b", "dtype": "float32", "source": "folder"}
    found = RunRecord(0, "digest", backbone=backbone).conditions
    assert found == Conditions(
        backbone="b", settings={"model.backbone": "Llava", "model.backbone.dtype": "float32"}
    )


def test_changes_are_refused_unless_their_kind_is_allowed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.record.data, run.record.scoring = {"A": "1"}, {"A": {"scorer": "exact"}}
    now = Conditions(data={"A": "2"}, scoring={"A": {"scorer": "letter"}})
    with pytest.raises(
        ValueError, match=r"the data of A changed.*the scorer of A.*--allow_changes data scoring"
    ):
        require_same(run, now, ())
    with pytest.raises(ValueError, match="conditions: the scorer of A was exact, now it is letter"):
        require_same(run, now, ["data"])
    assert [change.kind for change in require_same(run, now, ["data", "scoring"])] == ["data", "scoring"]
    assert require_same(run, Conditions(data={"A": "1"}), ()) == ()
