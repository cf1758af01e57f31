"""SEED-Bench (arXiv 2307.16125): multiple choice on images; the questions on videos are left out.

Files, as LLaVA's evaluation lays them out: `seed_bench/SEED-Bench.json` and `seed_bench/SEED-Bench-image/`
(the images, named by `data_id`), from huggingface.co/datasets/AILab-CVC/SEED-Bench.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_cvit.data.benchmarks.general.base import (
    LETTER_INSTRUCTION,
    Question,
    Suite,
    lacking,
    one_of,
    text_of,
    with_options,
)
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.metrics import general

_LETTERS = ("A", "B", "C", "D")


def _file(root: Path) -> Path:
    return root / "seed_bench" / "SEED-Bench.json"


def _images(root: Path) -> Path:
    return root / "seed_bench" / "SEED-Bench-image"


def _missing(root: Path) -> list[str]:
    found = lacking(_file(root), "questions of SEED-Bench")
    return [*found, *lacking(_images(root), "folder of the images of SEED-Bench")]


def _load(path: Path) -> tuple[list[Any], dict[str, str]]:
    """The questions, and the names of their types by number."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}; fetch it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("questions"), list):
        raise ValueError(f"{path}: it must be a JSON object with a list 'questions'")
    types = data.get("question_type", {})
    if not isinstance(types, dict):
        raise ValueError(f"{path}: field 'question_type': got {types!r:.80}; it must map names to numbers")
    return data["questions"], {str(number): name for name, number in types.items()}


def _read(root: Path, limit: int | None) -> Iterator[Question]:
    path = _file(root)
    rows, names = _load(path)
    asked: Counter[str] = Counter()
    for index, row in enumerate(rows):
        place = f"{path}, question {index}"
        if not isinstance(row, dict):
            raise ValueError(f"{place}: got {row!r}; a question is a JSON object")
        if one_of(text_of(row, "data_type", place), ("image", "video"), "data_type", place) == "video":
            continue
        number = text_of(row, "question_type_id", place)
        asked[number] += 1
        if limit is not None and asked[number] > limit:
            continue
        choices = tuple(text_of(row, f"choice_{letter.lower()}", place) for letter in _LETTERS)
        yield Question(
            id=f"{names.get(number, f'type {number}')}/{text_of(row, 'question_id', place)}",
            text=with_options(text_of(row, "question", place), choices),
            answer=one_of(text_of(row, "answer", place), _LETTERS, "answer", place),
            image=FileImage(_images(root), text_of(row, "data_id", place), record=place),
            choices=choices,
        )


SUITE = Suite(
    name="SEED",
    answer_format=AnswerFormat.LETTER,
    scorer="letter",
    instruction=LETTER_INSTRUCTION,
    summary=general.seed_bench,
    missing=_missing,
    read=_read,
)
