"""CLEVR-Math of UCIT: counting after additions and subtractions (Lindstroem and Abraham, arXiv 2208.05358).

Its questions are about the images of CLEVR v1.0. UCIT draws 40,000 of the training questions, and tests on
3,000 about images of CLEVR's validation split; the owner's test questions, about images of their own, are not
in its files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Dropped, Fields, Raw, Rows, Split, entries

NO_QUESTION = "no question"
_FIELDS: Fields = {"question": str, "answer": (int, str), "image_filename": str, "split": str}


def _rows(raw: Path, *, split: str) -> Rows:
    path = raw / "CLEVR-Math" / f"clevr-math-{split}.json"
    for position, entry in entries(path, _FIELDS, "questions", stated={"split": split}):
        if not entry["question"].strip():
            yield Dropped(NO_QUESTION)
            continue
        yield {
            "id": f"{split}_{position}",
            "image": f"{entry['split']}/{entry['image_filename']}",
            "question": entry["question"].strip(),
            "answers": [str(entry["answer"])],
        }


def _raw(split: str) -> tuple[Raw, Raw]:
    owner = "https://huggingface.co/datasets/dali-does/clevr-math"
    return (
        Raw(
            f"CLEVR-Math/clevr-math-{split}.json", "questions and answers", f"data/clevr-math.zip at {owner}"
        ),
        Raw(
            f"CLEVR-Math/CLEVR_v1.0/images/{split}/",
            "images of CLEVR",
            "CLEVR_v1.0.zip at https://cs.stanford.edu/people/jcjohns/clevr/",
        ),
    )


CONVERTER = Converter(
    task="CLEVR-Math",
    data_set="CLEVR-Math",
    images="CLEVR-Math/CLEVR_v1.0/images",
    splits={
        "ucit": {
            "train": Split(
                partial(_rows, split="train"),
                _raw("train"),
                published=40_000,
                draw=40_000,
                note="UCIT's draw is not published",
            ),
            "test": Split(
                partial(_rows, split="val"),
                _raw("val"),
                published=3_000,
                draw=3_000,
                note="drawn from the owner's validation split, as in UCIT, whose draw is not published",
            ),
        }
    },
)
