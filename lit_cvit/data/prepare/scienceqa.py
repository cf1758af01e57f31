"""ScienceQA (arXiv 2209.09513): multiple choice by letter; half of the questions have no image.

The question is laid out as CoIN's and CVIT's files have it: "Context: ..." where there is one, the question,
and the options, one a line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cvit.data.prepare.base import (
    Converter,
    Dropped,
    Fields,
    Raw,
    Row,
    Rows,
    Split,
    entries,
    lettered,
    strings,
)
from lit_cvit.data.prepare.scanning import members

_PROBLEMS = "ScienceQA/problems.json"
_SPLITS = "ScienceQA/pid_splits.json"
_FIELDS: Fields = {"question": str, "choices": list, "answer": int, "hint": str, "image": (str, type(None))}
_HOME = "data/scienceqa of https://github.com/lupantech/ScienceQA"


def _rows(raw: Path, split: str) -> Rows:
    wanted = dict(members(raw / _SPLITS))
    if split not in wanted:
        raise ValueError(f"{raw / _SPLITS}: no list {split!r}; it has {', '.join(wanted) or 'nothing'}")
    left = set(strings(wanted[split], f"{raw / _SPLITS}, {split}"))
    for id_, problem in entries(raw / _PROBLEMS, _FIELDS):
        if id_ in left:
            left.remove(id_)
            strings(problem["choices"], f"{raw / _PROBLEMS}, [{id_!r}].choices")
            yield _row(id_, split, problem)
    if left:
        raise ValueError(
            f"{raw / _PROBLEMS}: {len(left)} problems of split {split!r} are missing, such as {min(left)!r}"
        )


def _row(id_: str, split: str, problem: dict[str, Any]) -> Row | Dropped:
    choices = problem["choices"]
    if not 0 <= problem["answer"] < len(choices):
        return Dropped("its answer is none of its choices")
    context = f"Context: {problem['hint']}\n" if problem["hint"].strip() else ""
    row: Row = {"id": id_}
    if problem["image"]:
        row["image"] = f"{split}/{id_}/{problem['image']}"
    row["question"] = f"{context}{problem['question']}\n{lettered(choices)}"
    row["answers"] = [chr(ord("A") + problem["answer"])]
    row["choices"] = choices
    return row


def _split(name: str, published: int, note: str = "", unit: int = 1) -> Split:
    return Split(
        rows=lambda raw: _rows(raw, name),
        raw=(
            Raw(_PROBLEMS, "questions and answers", _HOME),
            Raw(_SPLITS, "problems of each split", _HOME),
            Raw(
                f"ScienceQA/images/{name}/",
                f"images, in {name}/<problem>/",
                f"https://scienceqa.s3.us-west-1.amazonaws.com/images/{name}.zip",
            ),
        ),
        published=published,
        unit=unit,
        note=note,
    )


CONVERTER = Converter(
    task="ScienceQA",
    data_set="ScienceQA",
    images="ScienceQA/images",
    splits={
        "cvit": {"train": _split("train", 12726), "test": _split("test", 4241)},
        "coin": {
            "train": _split("train", 12000, "published as 12k", unit=1000),
            "test": _split("test", 4000, "published as 4k; the published runs score all 4241", unit=1000),
        },
    },
)
