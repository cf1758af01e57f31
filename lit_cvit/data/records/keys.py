"""Keys of a record that are not read: which of them are refused, and with what advice.

A key that is dropped in silence changes what is learned: with its image under another name a record is one
of text alone. So a key is refused that other trainers give a meaning which is not had here (`FOREIGN`), that
is another name of a key which the record lacks (`ALIASES`), or that is spelled nearly like one. Any other key
is taken for what a data set notes about its samples (`source`, `category`) and is not read. Keys whose value
is empty (null, "", [], {}) or says what is done anyway say nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

NOTES = frozenset(
    {"bbox", "category", "metadata", "model", "model_id", "origin_answer_bbox", "size", "source"}
)
"""Keys of published files and of `prepare` that say something about a sample, and nothing to a model."""

_ONE_IMAGE = "a record has one image, whose path is its 'image'"
_NO_VIDEO = "only images can be shown; give a frame as 'image', or leave the record out"
_NO_SOUND = "only images can be shown; leave the record out"
_NO_SYSTEM = "there is no system turn; put what it says into the user's text, or drop it"
_ALL_ANSWERS = (
    "every answer of a conversation is learned, and all count the same; leave the key out, or give earlier "
    "turns that are not to be learned as text of the user"
)
_NO_WEIGHTS = "all records count the same; leave the key out, or repeat the record"
_NO_TOOLS = "there are no tools; leave the record out"
_NO_PAIRS = "there is no training on preferences; leave the key out"

FOREIGN: Mapping[str, str] = {
    "images": _ONE_IMAGE,
    "image_paths": _ONE_IMAGE,
    "image_list": _ONE_IMAGE,
    "video": _NO_VIDEO,
    "videos": _NO_VIDEO,
    "video_path": _NO_VIDEO,
    "audio": _NO_SOUND,
    "audios": _NO_SOUND,
    "system": _NO_SYSTEM,
    "system_prompt": _NO_SYSTEM,
    "loss": _ALL_ANSWERS,
    "loss_scale": _ALL_ANSWERS,
    "loss_mask": _ALL_ANSWERS,
    "weight": _NO_WEIGHTS,
    "tools": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "chosen": _NO_PAIRS,
    "rejected": _NO_PAIRS,
    "rejected_response": _NO_PAIRS,
}
"""Keys that other trainers read, and what to do about them; also where they stand in a turn."""

_TURN = {**FOREIGN, "weight": _ALL_ANSWERS, "train": _ALL_ANSWERS, "image": _ONE_IMAGE}

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("img", "img_path", "image_path", "image_file", "image_url", "image_name", "file_name", "filename"),
        *("pic", "picture", "photo"),
    ),
}
"""Other names of a key; refused where the record lacks the key itself."""

_ALIAS_OF = {alias: key for key, aliases in ALIASES.items() for alias in aliases}
_AS_ALWAYS = {"loss": (True, 1), "loss_scale": (1,), "loss_mask": (True, 1), "weight": (1,), "train": (True,)}
# Two letters of `image` changed places; further away lie the notes of data sets (`image_id`, `answer_type`).
_NEAR = 0.8


def advice(key: str, value: object, valid: Collection[str], present: Collection[str]) -> str:
    """What to do about a key of a record that is not valid; empty where it may stand there.

    Args:
        key: The key.
        value: Its value.
        valid: The keys that are read in records of this form.
        present: Those of them that the record has, or whose place another has taken.
    """
    if is_void(key, value):
        return ""
    folded = key.casefold()
    if folded in FOREIGN:
        return FOREIGN[folded]
    if named := _ALIAS_OF.get(folded, ""):
        return "" if named in present else f"no such key; did you mean {named!r}?"
    lacking = [name for name in valid if name not in present]
    near = difflib.get_close_matches(folded, lacking, n=1, cutoff=_NEAR) if key not in NOTES else []
    return f"no such key; did you mean {near[0]!r}?" if near else ""


def turn_advice(turn: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Each key of a turn that is refused, with what to do about it."""
    for key in turn:
        if key not in ("from", "value") and key.casefold() in _TURN and not is_void(key, turn[key]):
            yield key, _TURN[key.casefold()]


def is_void(key: str, value: object) -> bool:
    """Whether a key says nothing: its value is empty, or what is done anyway."""
    # 0 and False are values, which may say that a turn is not learned.
    is_empty = value is None or (isinstance(value, str | list | dict) and not value)
    return is_empty or value in _AS_ALWAYS.get(key.casefold(), ())
