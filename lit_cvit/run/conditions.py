"""Conditions of a run: everything that decides its numbers and can be another when it is opened again.

What a record of an earlier version does not hold is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = ("backbone", "encoders", "settings", "data", "scoring")
"""Kinds of changes, as `test --allow_changes` names them."""
TINY = "tiny"
"""The backbone that ships with lit_cvit, among the versions."""
_DATA = "data of "


@dataclass(frozen=True)
class Conditions:
    """What decides the numbers of a run.

    Attributes:
        versions: Version of what ships with lit_cvit and changes: a miniature, `tiny`.
        backbone: Digest of the backbone's files; empty where it is not recorded.
        encoders: `source` and `digest` of further models, by name.
        settings: Settings that give the stored tensors their meaning, by dotted name (`model.alpha`).
        data: Digest of the samples of a split, by the name of its task (`GQA`, `GQA train`).
        images: `root` and `digest` of the images of a split, by the same names.
        scoring: How the answers to a task are made and scored (`scorer`, `max_new_tokens`), by task.
    """

    versions: Mapping[str, int] = field(default_factory=dict)
    backbone: str = ""
    encoders: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scoring: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One condition that is not what it was.

    Attributes:
        kind: One of `KINDS`.
        what: The condition in words.
        before: Its value in the record.
        now: Its value now.
    """

    kind: str
    what: str
    before: Any
    now: Any

    def to_json(self) -> dict[str, Any]:
        """The change as plain JSON."""
        return {"kind": self.kind, "what": self.what, "before": self.before, "now": self.now}


def changes(before: Conditions, now: Conditions) -> list[Change]:
    """What differs of the conditions that both hold, in the order of `KINDS`."""
    found = []
    for name, old, new in _both(before.versions, now.versions):
        if old != new:
            kind = "backbone" if name == TINY else "data"
            found.append(Change(kind, f"version of {name}", old, new))
    if before.backbone and now.backbone and before.backbone != now.backbone:
        found.append(Change("backbone", "backbone digest", before.backbone, now.backbone))
    for name, old, new in _both(before.encoders, now.encoders):
        if old["digest"] != new["digest"]:
            found.append(Change("encoders", f"encoder {name}", _found_at(old), _found_at(new)))
    for name, old, new in _both(before.settings, now.settings):
        if not _agree(old, new, before.encoders, now.encoders):
            found.append(Change("settings", f"setting {name}", old, new))
    for name, old, new in _both(before.data, now.data):
        if old != new:
            found.append(Change("data", f"{_DATA}{name}", old, new))
    for name, old, new in _both(before.images, now.images):
        # The same images may have moved.
        if old["digest"] != new["digest"]:
            what = f"folder of images of {name}"
            found.append(Change("data", what, _images_at(old), _images_at(new)))
    for task, old, new in _both(before.scoring, now.scoring):
        for name, was, value in _both(old, new):
            if was != value:
                found.append(Change("scoring", f"{name} of {task}", was, value))
    return found


def in_words(found: Sequence[Change]) -> str:
    """Changes in one sentence: each with what it was and what it is, those of records by task alone."""
    records = sorted(each.what.removeprefix(_DATA) for each in found if each.what.startswith(_DATA))
    of_what = "records, instructions or how many are used"
    phrases = [f"the data of {', '.join(records)} changed ({of_what})"] if records else []
    phrases += [
        f"the {change.what} was {change.before}, now it is {change.now}"
        for change in found
        if not change.what.startswith(_DATA)
    ]
    return "; ".join(phrases)


def kinds_of(found: Sequence[Change]) -> list[str]:
    """The kinds of changes, each once, in the order of `KINDS`."""
    present = {change.kind for change in found}
    return [kind for kind in KINDS if kind in present]


def _both(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, before[name], value) for name, value in now.items() if name in before]


def _agree(
    before: Any, now: Any, old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]
) -> bool:
    """Whether two values of a setting mean the same.

    An encoder may lie in another folder; a list with a number for each stage goes on with further stages.
    """
    if before == now:
        return True
    if isinstance(before, list) and isinstance(now, list):
        numbers = all(isinstance(each, int | float) for each in now)
        return numbers and len(before) > 0 and now[: len(before)] == before
    if isinstance(before, str) and isinstance(now, str) and before in old and now in new:
        return old[before]["digest"] == new[now]["digest"]
    return False


def _found_at(encoder: Mapping[str, str]) -> str:
    return f"{encoder['source']} ({encoder['digest']})"


def _images_at(images: Mapping[str, str]) -> str:
    return f"{images['root']} (digest {images['digest']})"
