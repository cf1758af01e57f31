"""TextVQA 0.5.1 (arXiv 1904.08920): questions about text in photos, ten answers each; `val` is tested on."""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Rows, Split, entries, most_frequent_first, strings

_FIELDS = {"question": str, "question_id": int, "image_id": str, "answers": list}
_HOME = "https://textvqa.org/dataset"

IMAGES = Raw("TextVQA/train_images/", "images of train and val", f"train_val_images.zip at {_HOME}")


def _rows(raw: Path, split: str) -> Rows:
    path = raw / _path(split)
    for index, entry in entries(path, _FIELDS, "data", stated={"dataset_type": split, "set_name": split}):
        answers = most_frequent_first(strings(entry["answers"], f"{path}, data[{index}].answers"))
        yield {
            "id": str(entry["question_id"]),
            "image": f"train_images/{entry['image_id']}.jpg",
            "question": entry["question"],
            "answers": answers[:1] if split == "train" else answers,
        }


def _path(split: str) -> str:
    return f"TextVQA/TextVQA_0.5.1_{split}.json"


def _split(name: str, published: int, note: str = "", unit: int = 1) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(Raw(_path(name), "questions and answers, release 0.5.1", _HOME), IMAGES),
        published=published,
        unit=unit,
        note=note,
    )


CONVERTER = Converter(
    task="TextVQA",
    data_set="TextVQA",
    images="TextVQA",
    splits={
        "cvit": {"train": _split("train", 34602), "test": _split("val", 5000)},
        "coin": {
            "train": _split("train", 34000, "published as 34k", unit=1000),
            "test": _split("val", 5000),
        },
    },
)
