"""Keys of a record that are not read: which of them are refused, and with what advice.

A key that is dropped in silence changes what is learned: with its image under another name a record is one
of text alone. So a key is refused that other trainers give a meaning which is not had here (`FOREIGN`), that
is another name of a key which the record lacks (`ALIASES`), that is spelled nearly like one, or whose value
names an image file while the record has no image. Any other key is taken for what a data set notes about its
samples (`source`, `category`) and is not read. Keys whose value is empty (null, "", [], {}) or says what is
done anyway say nothing. `imagePath` and `image-path` are spellings of `image_path`.
"""

from __future__ import annotations

import difflib
import re
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
    **dict.fromkeys(("images", "image_paths", "image_list", "image_files", "imgs", "img_paths"), _ONE_IMAGE),
    **dict.fromkeys(("pictures", "photos"), _ONE_IMAGE),
    **dict.fromkeys(("video", "videos", "video_path", "video_paths", "frames"), _NO_VIDEO),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_paths"), _NO_SOUND),
    **dict.fromkeys(("system", "system_prompt", "system_message", "sys"), _NO_SYSTEM),
    **dict.fromkeys(("loss", "loss_scale", "loss_mask"), _ALL_ANSWERS),
    **dict.fromkeys(("weight", "weights", "sample_weight", "loss_weight"), _NO_WEIGHTS),
    **dict.fromkeys(("tools", "functions", "tool_calls"), _NO_TOOLS),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "rejected_answer"), _NO_PAIRS),
}
"""Keys that other trainers read, and what to do about them; also where they stand in a turn."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("img", "img_path", "image_path", "image_file", "image_url", "image_name", "file_name", "filename"),
        *("pic", "picture", "photo", "img_name", "img_file", "img_url", "image_filename", "image_src"),
        *("image_bytes", "image_base64", "image_data", "base64"),
    ),
}
"""Other names of a key; refused where the record lacks the key itself."""

_TURN = {
    **FOREIGN,
    **dict.fromkeys(("weight", "weights", "loss_weight", "train", "trainable", "learn"), _ALL_ANSWERS),
    **dict.fromkeys(("mask", "masked", "ignore", "skip"), _ALL_ANSWERS),
    **dict.fromkeys(("image", *ALIASES["image"]), _ONE_IMAGE),
}
_TURN_NOTES = NOTES | {"markdown", "text"}

_ALIAS_OF = {alias: key for key, aliases in ALIASES.items() for alias in aliases}
_AS_ALWAYS: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("loss", "loss_mask", "train", "trainable", "learn"), (True, 1)),
    **dict.fromkeys(("loss_scale", "weight", "weights", "sample_weight", "loss_weight"), (1,)),
    **dict.fromkeys(("masked", "ignore", "skip"), (False, 0)),
}
# Two letters of `image` changed places; further away lie the notes of data sets (`image_id`, `answer_type`).
_NEAR = 0.8
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[\W_]+")
_IMAGE_FILE = re.compile(r"\S.*\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|avif)(?:\?\S*)?\s*", re.IGNORECASE)
_LONGEST_PATH = 300


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
    folded = _folded(key)
    if folded in FOREIGN:
        return FOREIGN[folded]
    if named := _ALIAS_OF.get(folded, ""):
        return "" if named in present else f"no such key; did you mean {named!r}?"
    lacking = [name for name in valid if name not in present]
    near = difflib.get_close_matches(folded, lacking, n=1, cutoff=_NEAR) if key not in NOTES else []
    if near:
        return f"no such key; did you mean {near[0]!r}?"
    if "image" in lacking and _names_image(value):
        return "it names an image, which is not read there; did you mean 'image'?"
    return ""


def turn_advice(turn: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Each key of a turn that is refused, with what to do about it, or that is just not read, without."""
    for key, value in turn.items():
        if key in ("from", "value") or is_void(key, value):
            continue
        if fix := _TURN.get(_folded(key), ""):
            yield key, fix
        elif key not in _TURN_NOTES:
            yield key, ""


def is_void(key: str, value: object) -> bool:
    """Whether a key says nothing: its value is empty, or what is done anyway."""
    # 0 and False are values, which may say that a turn is not learned.
    is_empty = value is None or (isinstance(value, str | list | dict) and not value)
    return is_empty or value in _AS_ALWAYS.get(_folded(key), ())


def _folded(key: str) -> str:
    """A key as one writes it here: lower case, words joined by underscores."""
    return "_".join(filter(None, _WORDS.split(key))).casefold()


def _names_image(value: object) -> bool:
    """Whether a value is the path of an image file, or a list or mapping that holds one."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_PATH and _IMAGE_FILE.fullmatch(value) is not None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_names_image, inner))
