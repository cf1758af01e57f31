"""VQAv2 (arXiv 1612.00837): one question of each training image; the test split is drawn from val.

The first answer is the owner's `multiple_choice_answer`, the most frequent of the ten human ones; a test
record has all ten.
"""

from __future__ import annotations

from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Row, Rows, Split, checked, entries

_HOME = "https://visualqa.org/download.html"
_QUESTION = {"question_id": int, "question": str}
_ANNOTATION = {"question_id": int, "image_id": int, "multiple_choice_answer": str, "answers": list}


def _rows(raw: Path, split: str) -> Rows:
    stated = {"data_subtype": f"{split}2014"}
    questions = {
        entry["question_id"]: entry["question"]
        for _, entry in entries(raw / _questions(split), _QUESTION, "questions", stated)
    }
    path = raw / _annotations(split)
    for index, entry in entries(path, _ANNOTATION, "annotations", stated):
        question = questions.pop(entry["question_id"], None)
        if question is None:
            yield Dropped("answers to no question")
            continue
        yield {
            "id": str(entry["question_id"]),
            "image": f"{split}2014/COCO_{split}2014_{entry['image_id']:012d}.jpg",
            "question": question,
            "answers": _answers(entry, split, f"{path}, annotations[{index}].answers"),
        }
    for _ in questions:
        yield Dropped("question without answers")


def _answers(entry: Row, split: str, place: str) -> list[str]:
    target = entry["multiple_choice_answer"]
    if split == "train":
        return [target]
    human = [checked(each, {"answer": str}, place)["answer"] for each in entry["answers"]]
    return sorted(human, key=lambda answer: answer != target)


def _questions(split: str) -> str:
    return f"VQAv2/v2_OpenEnded_mscoco_{split}2014_questions.json"


def _annotations(split: str) -> str:
    return f"VQAv2/v2_mscoco_{split}2014_annotations.json"


def _split(
    name: str, published: int, note: str, *, per_image: int = 0, draw: int = 0, unit: int = 1
) -> Split:
    part = name.capitalize()
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_questions(name), "questions", f"v2_Questions_{part}_mscoco.zip at {_HOME}"),
            Raw(_annotations(name), "answers", f"v2_Annotations_{part}_mscoco.zip at {_HOME}"),
            Raw(
                f"COCO2014/{name}2014/",
                "images",
                f"http://images.cocodataset.org/zips/{name}2014.zip",
            ),
        ),
        published=published,
        unit=unit,
        per_image=per_image,
        draw=draw,
        note=note,
    )


_TRAIN = _split(
    "train",
    82783,
    "the published number is that of the training images; which question of each the authors took is not "
    "published",
    per_image=1,
)

CONVERTER = Converter(
    task="VQAv2",
    data_set="VQAv2",
    images="COCO2014",
    splits={
        "cvit": {
            "train": _TRAIN,
            "test": _split(
                "val",
                53588,
                "a quarter of val; which questions the authors drew is not published",
                draw=53588,
            ),
        },
        "coin": {
            "train": _TRAIN,
            "test": _split(
                "val",
                107000,
                "published as 107k, of which no list is published; so many are drawn from val, whose answers "
                "are public",
                draw=107000,
                unit=1000,
            ),
        },
    },
)
