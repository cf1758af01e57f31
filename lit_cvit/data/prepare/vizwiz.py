"""VizWiz VQA (arXiv 1802.08218): questions of blind people about their photos, ten answers each.

The answers of the official test split are not public, so val is tested on.
"""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Row, Rows, Split, checked, entries, most_frequent_first

_HOME = "https://vizwiz.org/tasks-and-datasets/vqa/"
_FIELDS = {"image": str, "question": str, "answers": list}


def _rows(raw: Path, split: str) -> Rows:
    path = raw / _path(split)
    for index, entry in entries(path, _FIELDS):
        check_split(entry, "image", split, f"{path}, [{index}]")
        human = [
            checked(each, {"answer": str}, f"{path}, [{index}].answers[{number}]")["answer"]
            for number, each in enumerate(entry["answers"])
        ]
        answers = most_frequent_first(human)
        yield {
            "id": Path(entry["image"]).stem,
            "image": f"{split}/{entry['image']}",
            "question": entry["question"],
            "answers": answers[:1] if split == "train" else answers,
        }


def check_split(entry: Row, field: str, split: str, place: str) -> None:
    """Check that an image is of a split: the owner's names of images are as "VizWiz_val_00000000.jpg".

    Raises:
        ValueError: its name is one of another split; starts with `place`, names field and value.
    """
    name = entry[field]
    if name.startswith("VizWiz_") and not name.startswith(f"VizWiz_{split}_"):
        raise ValueError(
            f"{place}: field {field!r} is {name!r}, must begin with 'VizWiz_{split}_'; this is the file of "
            "another split under this name, get the right one"
        )


def _path(split: str) -> str:
    return f"VizWiz/{split}.json"


def _split(name: str, published: int, note: str = "", unit: int = 1) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_path(name), "questions and answers", f"Annotations.zip at {_HOME}"),
            Raw(f"VizWiz/{name}/", "images", f"{name}.zip at {_HOME}"),
        ),
        published=published,
        unit=unit,
        note=note,
    )


CONVERTER = Converter(
    task="VizWiz",
    data_set="VizWiz VQA",
    images="VizWiz",
    splits={
        "cvit": {"test": _split("val", 4319)},
        "coin": {
            "train": _split("train", 20000, "published as 20k; the data set has 20523", unit=1000),
            "test": _split(
                "val",
                8000,
                "published as 8k, the official test split, whose answers are not public",
                unit=1000,
            ),
        },
    },
)
