"""Places365-Standard (TPAMI 2018): naming the background; ten shots a class to learn from, val to test on.

The five-shot setting draws from the ten shots; the benchmark does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Rows, Split
from lit_cvit.data.prepare.scanning import text_lines

_SHOTS = 10
_HOME = "http://places2.csail.mit.edu/download.html"
_LISTS = f"filelist_places365-standard.tar at {_HOME}"
_CLASSES = "Places365/categories_places365.txt"
_LISTED = {"train": "Places365/places365_train_standard.txt", "val": "Places365/places365_val.txt"}
_FOLDERS = {"train": "data_256", "val": "val_256"}
_LINE = re.compile(r"(\S+) (\d+)")


def _rows(raw: Path, split: str) -> Rows:
    names = {number: _class_name(path) for _, path, number in _lines(raw / _CLASSES)}
    for line, path, number in _lines(raw / _LISTED[split]):
        if number not in names:
            raise ValueError(f"{raw / _LISTED[split]}, line {line}: class {number} is not in {_CLASSES}")
        path = path.lstrip("/")
        yield {
            "id": path.rpartition(".")[0],
            "image": f"{_FOLDERS[split]}/{path}",
            "question": "",
            "answers": [names[number]],
        }


def _lines(path: Path) -> Iterator[tuple[int, str, int]]:
    """Read line number, path and class from lines such as "/a/airfield/00000001.jpg 0"."""
    for line, text in text_lines(path):
        found = _LINE.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{path}, line {line}: got {text.strip()!r}, must be a path and a class number")
        yield line, found[1], int(found[2])


def _class_name(path: str) -> str:
    """Turn "/f/field/wild" into "field wild"; the first folder is only the first letter."""
    return " ".join(path.strip("/").split("/")[1:]).replace("_", " ")


def _split(name: str, published: int, per_class: int = 0, note: str = "") -> Split:
    archive = {"train": "train_256_places365standard.tar", "val": "val_256.tar"}[name]
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_CLASSES, "numbers of the classes", _LISTS),
            Raw(_LISTED[name], f"images and classes of {name}", _LISTS),
            Raw(f"Places365/{_FOLDERS[name]}/", "images", f"{archive} at {_HOME}"),
        ),
        published=published,
        per_class=per_class,
        note=note,
    )


CONVERTER = Converter(
    task="Places365",
    data_set="Places365-Standard",
    images="Places365",
    splits={
        "cvit": {
            "train": _split(
                "train", 3650, _SHOTS, "5 and 10 of each class; the authors' shots are not published"
            ),
            "test": _split("val", 36500),
        }
    },
)
