"""OCR-VQA (ICDAR 2019): questions about book covers; one of each training cover, all of the test covers.

The owner publishes addresses of the covers, some of which are dead: questions about a cover that is not there
are dropped. Covers have the suffix of their address, as the owner's script names them, or ".jpg", as LLaVA's
copy of them has it.
"""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Rows, Split, entries, of_splits

_PATH = "OCR-VQA/dataset.json"
_FIELDS = {"imageURL": str, "questions": list, "answers": list, "split": int}
_NUMBERS = {"train": 1, "test": 3}
_HOME = "https://ocr-vqa.github.io/"
_RAW = (
    Raw(_PATH, "questions and answers", _HOME),
    Raw("OCR-VQA/images/", "covers, named after their books", f"the owner's loadDataset.py at {_HOME}"),
)


def _rows(raw: Path, split: str) -> Rows:
    books = entries(raw / _PATH, _FIELDS)
    for book, entry in of_splits(books, lambda each: each[1]["split"], (_NUMBERS[split],), raw / _PATH):
        if len(entry["questions"]) != len(entry["answers"]):
            yield Dropped("book with unequal numbers of questions and answers")
            continue
        image = _image(raw, book, Path(entry["imageURL"]).suffix)
        for number, (question, answer) in enumerate(zip(entry["questions"], entry["answers"], strict=True)):
            yield {
                "id": f"{book}_{number}",
                "image": image,
                "question": str(question),
                "answers": [str(answer)],
            }


def _image(raw: Path, book: str, suffix: str) -> str:
    own, copied = f"images/{book}{suffix}", f"images/{book}.jpg"
    if own == copied or (raw / "OCR-VQA" / own).is_file():
        return own
    return copied if (raw / "OCR-VQA" / copied).is_file() else own


def _split(name: str, published: int, per_image: int = 0, note: str = "", unit: int = 1) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=_RAW,
        published=published,
        unit=unit,
        per_image=per_image,
        note=note,
    )


CONVERTER = Converter(
    task="OCR-VQA",
    data_set="OCR-VQA",
    images="OCR-VQA",
    splits={
        "cvit": {"test": _split("test", 99926, note="depends on which covers could be downloaded")},
        "coin": {
            "train": _split(
                "train",
                165000,
                1,
                "published as 165k, about the number of covers; which question of each the authors took is "
                "not published",
                unit=1000,
            ),
            "test": _split(
                "test",
                100000,
                note="published as 100k; depends on which covers could be downloaded",
                unit=1000,
            ),
        },
    },
    drops_missing_images=True,
)
