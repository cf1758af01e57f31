"""GQA 1.2 (arXiv 1902.09506), balanced questions: one of each training image; the test split is test-dev."""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Rows, Split, entries

_FIELDS = {"question": str, "imageId": str, "answer": str}
_HOME = "https://cs.stanford.edu/people/dorarad/gqa/download.html"


def _rows(raw: Path, split: str) -> Rows:
    for id_, entry in entries(raw / _path(split), _FIELDS):
        yield {
            "id": id_,
            "image": f"images/{entry['imageId']}.jpg",
            "question": entry["question"],
            "answers": [entry["answer"]],
        }


def _path(split: str) -> str:
    return f"GQA/{split}_balanced_questions.json"


def _split(name: str, published: int, per_image: int = 0, note: str = "", unit: int = 1) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_path(name), "balanced questions", f"questions1.2.zip at {_HOME}"),
            Raw("GQA/images/", "images", f"images.zip at {_HOME}"),
        ),
        published=published,
        unit=unit,
        per_image=per_image,
        note=note,
    )


_TRAIN_NOTE = (
    "the published number is that of the training images; which question of each the authors took is not "
    "published"
)

CONVERTER = Converter(
    task="GQA",
    data_set="GQA",
    images="GQA",
    splits={
        "cvit": {
            "train": _split("train", 72140, 1, _TRAIN_NOTE),
            "test": _split("testdev", 12578),
        },
        "coin": {
            "train": _split("train", 72140, 1, _TRAIN_NOTE),
            "test": _split(
                "testdev", 1000, note="published as 1k; the scorer goes by all of test-dev", unit=1000
            ),
        },
    },
)
