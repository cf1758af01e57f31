"""ImageNet-R of UCIT: paintings, toys, sketches and the like of 200 ImageNet classes (arXiv 2006.16241).

The owner publishes 30,000 images in a folder a class, and no split. UCIT trains on 23,998 of them and tests
on 3,000 others; which ones only its copy of the images tells, so a share of them is held out here.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Rows, Split, chance
from lit_cvit.data.prepare.scanning import read_text

HELD_OUT = 0.15
"""Share of the images that the test records are drawn from."""

UNNAMED = "class without a name in README.txt"
NOT_AN_IMAGE = "file that is not an image"
_FOLDER, _NAMES = "ImageNet-R/imagenet-r/", "ImageNet-R/imagenet-r/README.txt"
_CLASS = re.compile(r"^(n\d{8})\s+(\S+)\s*$", re.MULTILINE)
_SUFFIXES = (".jpg", ".jpeg", ".png")


def _rows(raw: Path, *, held_out: bool) -> Rows:
    names = dict(_CLASS.findall(read_text(raw / _NAMES)))
    if not names:
        raise ValueError(
            f"{raw / _NAMES}: no line names a class, as 'n01443537 goldfish'; is it the right file?"
        )
    for folder in sorted(path for path in (raw / _FOLDER).iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            image = f"{folder.name}/{path.name}"
            if (chance(image) < HELD_OUT) != held_out:
                continue
            if path.suffix.lower() not in _SUFFIXES:
                yield Dropped(NOT_AN_IMAGE)
            elif folder.name not in names:
                yield Dropped(UNNAMED)
            else:
                name = names[folder.name].replace("_", " ")
                yield {"id": image, "image": image, "question": "", "answers": [name]}


_SOURCE = "imagenet-r.tar at https://github.com/hendrycks/imagenet-r"
_RAW = (
    Raw(_NAMES, "names of the classes", _SOURCE),
    Raw(_FOLDER, "images, in a folder for every class (n01443537/)", _SOURCE, is_list=True),
)
_split = partial(Split, raw=_RAW, note="the data set has no split, and UCIT's is not published as a list")

CONVERTER = Converter(
    task="ImageNet-R",
    data_set="ImageNet-R",
    images=_FOLDER,
    splits={
        "ucit": {
            "train": _split(partial(_rows, held_out=False), published=23_998, draw=23_998),
            "test": _split(partial(_rows, held_out=True), published=3_000, draw=3_000),
        }
    },
)
