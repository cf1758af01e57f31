"""ImageNet (ILSVRC 2012): naming the object, 100 of the 1000 classes.

The authors' classes are not published. `ImageNet/classes.txt`, one class a line as "n01440764", says which to
take; without it, 100 are drawn by a hash of their names.
"""

from __future__ import annotations

import heapq
import re
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Rows, Split, chance

NUM_CLASSES = 100
_NAMES = "ImageNet/LOC_synset_mapping.txt"
_CHOSEN = "ImageNet/classes.txt"
_HOME = "https://image-net.org/download-images"
_NAME_LINE = re.compile(r"(n\d{8}) ([^,]+)")
_IMAGE = re.compile(r".+\.jpe?g", re.IGNORECASE)


def _rows(raw: Path, split: str) -> Rows:
    names = _class_names(raw / _NAMES)
    for class_ in _classes(raw, names):
        folder = raw / "ImageNet" / split / class_
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; ImageNet/{split}/ has a folder for every class")
        for path in sorted(folder.iterdir()):
            if _IMAGE.fullmatch(path.name):
                yield {
                    "id": path.stem,
                    "image": f"{split}/{class_}/{path.name}",
                    "question": "",
                    "answers": [names[class_]],
                }
            else:
                yield Dropped("not a JPEG file")


def _class_names(path: Path) -> dict[str, str]:
    """Read the first name of every class from lines such as "n01440764 tench, Tinca tinca"."""
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = _NAME_LINE.match(line)
        if found is None:
            raise ValueError(
                f"{path}, line {number}: got {line!r}, must be as 'n01440764 tench, Tinca tinca'"
            )
        names[found[1]] = found[2].strip()
    return names


def _classes(raw: Path, names: dict[str, str]) -> list[str]:
    path = raw / _CHOSEN
    if not path.exists():
        return sorted(heapq.nsmallest(NUM_CLASSES, names, key=lambda class_: chance(f"ImageNet/{class_}")))
    classes = path.read_text(encoding="utf-8").split()
    for class_ in classes:
        if class_ not in names:
            raise ValueError(f"{path}: unknown class {class_!r}; a class is as 'n01440764', from {_NAMES}")
    return list(dict.fromkeys(classes))


def _split(name: str, published: int, note: str, draw: int = 0) -> Split:
    archive = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar, sorted into folders"}[
        name
    ]
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(
                _NAMES,
                "names of the classes",
                "https://www.kaggle.com/c/imagenet-object-localization-challenge/data",
            ),
            Raw(_CHOSEN, "classes to take, one a line", "your own choice", optional=True),
            Raw(
                f"ImageNet/{name}/",
                "images, in a folder for every class (n01440764/)",
                f"{archive}, at {_HOME}",
                is_list=True,
            ),
        ),
        published=published,
        draw=draw,
        note=f"the authors' {NUM_CLASSES} classes are not published, ours are listed or drawn; {note}",
    )


_TEST_NOTE = "val has 50 images a class"

CONVERTER = Converter(
    task="ImageNet",
    data_set="ImageNet",
    images="ImageNet",
    splits={
        "cvit": {
            "train": _split("train", 117715, "so many of their images are drawn", draw=117715),
            "test": _split("val", 5050, f"{_TEST_NOTE}, so the published 5050 are 101 folders"),
        },
        "coin": {
            "train": _split("train", 129833, "a class has at most 1300 images"),
            "test": _split("val", 5050, f"{_TEST_NOTE}, so the published 5050 are 101 folders"),
        },
    },
)
