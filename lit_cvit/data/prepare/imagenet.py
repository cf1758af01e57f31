"""ImageNet (ILSVRC 2012): naming the object, 100 of the 1000 classes.

The authors' classes are not published. `ImageNet/classes.txt`, one class a line as "n01440764", says which to
take; without it, 100 are drawn by a hash of their names.

The owner's archive of val has no folders. Its images lie in folders of their classes if somebody sorted them,
or they lie in one, and then `ImageNet/LOC_val_solution.csv` tells their classes.
"""

from __future__ import annotations

import csv
import heapq
import re
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Rows, Split, chance
from lit_cvit.data.prepare.scanning import read_text, text_lines

NUM_CLASSES = 100
_NAMES = "ImageNet/LOC_synset_mapping.txt"
_LIST = "classes.txt"
_CHOSEN = f"ImageNet/{_LIST}"
_SOLUTION = "ImageNet/LOC_val_solution.csv"
_KAGGLE = "https://www.kaggle.com/c/imagenet-object-localization-challenge/data"
_HOME = "https://image-net.org/download-images"
_NAME_LINE = re.compile(r"(n\d{8}) ([^,]+)")
_IMAGE = re.compile(r".+\.jpe?g", re.IGNORECASE)


def _rows(raw: Path, split: str) -> Rows:
    names = _class_names(raw / _NAMES)
    classes = _classes(raw, names)
    folder = raw / "ImageNet" / split
    if split == "val" and not any((folder / class_).is_dir() for class_ in names):
        images = _in_one_folder(raw, names)
    else:
        images = _in_folders(folder, classes)
    for class_ in classes:
        for name in images[class_]:
            if _IMAGE.fullmatch(name):
                yield {
                    "id": Path(name).stem,
                    "image": f"{split}/{name}",
                    "question": "",
                    "answers": [names[class_]],
                }
            else:
                yield Dropped("not a JPEG file")


def _in_folders(folder: Path, classes: list[str]) -> dict[str, list[str]]:
    missing = [class_ for class_ in classes if not (folder / class_).is_dir()]
    if missing:
        raise ValueError(
            f"{folder}: no folders of {len(missing)} of the {len(classes)} classes to take; unpack them, or "
            f"list others in {_CHOSEN} (all to take stand in {_CHOSEN} under --out): {', '.join(missing)}"
        )
    return {
        class_: sorted(f"{class_}/{path.name}" for path in (folder / class_).iterdir()) for class_ in classes
    }


def _in_one_folder(raw: Path, names: dict[str, str]) -> dict[str, list[str]]:
    """Read lines such as "ILSVRC2012_val_00000001,n01751748 111 108 431 202", a header before them."""
    path = raw / _SOLUTION
    if not path.exists():
        raise ValueError(
            f"{raw / 'ImageNet' / 'val'}: it has no folders of classes (n01440764/), and there is no {path}, "
            f"which tells the classes of images in one folder; get it from {_KAGGLE}"
        )
    images: dict[str, list[str]] = {class_: [] for class_ in names}
    for line, cells in enumerate(csv.reader(text for _, text in text_lines(path)), 1):
        class_ = cells[1].split(" ")[0] if len(cells) == 2 else ""
        if class_ in images:
            images[class_].append(f"{cells[0]}.JPEG")
        elif line > 1:
            raise ValueError(
                f"{path}, line {line}: got {','.join(cells)!r}, must be an image, a comma and its class"
            )
    return {class_: sorted(listed) for class_, listed in images.items()}


def _class_names(path: Path) -> dict[str, str]:
    """Read the first name of every class from lines such as "n01440764 tench, Tinca tinca"."""
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
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
    classes = read_text(path).split()
    for class_ in classes:
        if class_ not in names:
            raise ValueError(f"{path}: unknown class {class_!r}; a class is as 'n01440764', from {_NAMES}")
    return list(dict.fromkeys(classes))


_VAL_CLASSES = Raw(_SOLUTION, "classes of val's images, if these lie in one folder", _KAGGLE, optional=True)


def _split(name: str, published: int, note: str, draw: int = 0) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_NAMES, "names of the classes", _KAGGLE),
            Raw(_CHOSEN, "classes to take, one a line", "your own choice", optional=True),
            *([_VAL_CLASSES] if name == "val" else []),
            Raw(
                f"ImageNet/{name}/",
                "images, in a folder for every class (n01440764/)",
                f"ILSVRC2012_img_{name}.tar at {_HOME}",
                is_list=True,
            ),
        ),
        published=published,
        draw=draw,
        note=f"which {NUM_CLASSES} classes the authors took is not published; those taken here stand in "
        f"{_LIST}, beside the records; {note}",
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
    lists={_LIST: lambda raw: _classes(raw, _class_names(raw / _NAMES))},
)
