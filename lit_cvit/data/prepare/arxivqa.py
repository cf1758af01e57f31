"""ArxivQA of UCIT: questions about figures of papers (Li et al., arXiv 2403.00231), answered by letter.

The data set has no split of its own, and how UCIT's authors drew theirs is not published: a share of the
figures is held out here, so that none is in both splits. In UCIT's files more than a thousand are.

Some lists of options end with the rationale, which gives the answer away. It is left out here; in UCIT's
files it is part of the question. So are dashes and headings such as "## Figure (b)" that stand among options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lit_cvit.data.prepare.base import (
    Converter,
    Dropped,
    Fields,
    Raw,
    Rows,
    Split,
    chance,
    lettered,
    read_jsonl,
)

HELD_OUT = 0.05
"""Share of the figures that the test records are drawn from."""

TOO_FEW = "fewer than two options"
OUT_OF_ORDER = "options that are not lettered A, B, C and so on"
NO_OPTION = "label that names none of the options"
NO_QUESTION = "no question"
_FIELDS: Fields = {"image": str, "options": list, "question": str, "label": str}
_NO_CHOICE = re.compile(r"|-+|#+\s.*\bfigures?\b.*|\W*(rationale|explanation)\b.*", re.IGNORECASE | re.DOTALL)
_LETTERED = re.compile(r"[(\[]?([A-Z])(?:[)\].:]+|\s*-\s)\s*", re.IGNORECASE)
_LETTER = re.compile(r"\W*([A-Z])\W*", re.IGNORECASE)
_BESIDE = re.compile(r"([A-Z])\s+(.+)", re.IGNORECASE | re.DOTALL)


def _rows(raw: Path, *, held_out: bool) -> Rows:
    for number, entry in read_jsonl(raw / "ArxivQA" / "arxivqa.jsonl", _FIELDS):
        if (chance(entry["image"]) < HELD_OUT) != held_out:
            continue
        given = [str(option).strip() for option in entry["options"]]
        options = [option for option in given if not _NO_CHOICE.fullmatch(option)]
        choices = _choices(options, in_place=options == given[: len(options)])
        letter = _letter(entry["label"].strip(), choices)
        if not entry["question"].strip():
            yield Dropped(NO_QUESTION)
        elif len(options) < 2:
            yield Dropped(TOO_FEW)
        elif not choices:
            yield Dropped(OUT_OF_ORDER)
        elif not letter:
            yield Dropped(NO_OPTION)
        else:
            yield {
                "id": number,
                "image": entry["image"],
                "question": f"{entry['question'].strip()}\n{lettered(choices)}",
                "choices": choices,
                "answers": [letter],
            }


def _choices(options: Sequence[str], *, in_place: bool) -> list[str]:
    """Options without their letters; empty if some have a letter and it is not theirs.

    Options without letters go by their places, so none before them may have been left out.
    """
    marks = [_LETTERED.match(option) for option in options]
    if not any(marks):
        return list(options) if in_place else []
    letters = [mark[1].upper() if mark else "" for mark in marks]
    if letters != [chr(ord("A") + place) for place in range(len(options))]:
        return []
    return [option[mark.end() :] for option, mark in zip(options, marks, strict=True) if mark]


def _letter(label: str, choices: Sequence[str]) -> str:
    """The letter that a label names, be it the letter alone, with its option, or the option alone."""
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    options = dict(zip(letters, map(str.casefold, choices), strict=True))
    for letter, option in options.items():
        if option and label.casefold() == option:
            return letter
    mark = _LETTER.fullmatch(label) or _LETTERED.match(label)
    if mark is None and (beside := _BESIDE.fullmatch(label)):
        # "A line" may begin with an article: only a letter beside its own option counts.
        mark = beside if options.get(beside[1].upper()) == beside[2].casefold() else None
    return mark[1].upper() if mark and mark[1].upper() in letters else ""


_RAW = (
    Raw(
        "ArxivQA/arxivqa.jsonl",
        "questions and answers",
        "https://huggingface.co/datasets/MMInstruction/ArxivQA",
    ),
    Raw("ArxivQA/images/", "figures", "images.tgz at https://huggingface.co/datasets/MMInstruction/ArxivQA"),
)
_NOTE = (
    "the data set has no split and UCIT's draw is not published; figures of one split are not in the other"
)

CONVERTER = Converter(
    task="ArxivQA",
    data_set="ArxivQA",
    images="ArxivQA",
    splits={
        "ucit": {
            "train": Split(partial(_rows, held_out=False), _RAW, published=40_000, draw=40_000, note=_NOTE),
            "test": Split(partial(_rows, held_out=True), _RAW, published=3_000, draw=3_000, note=_NOTE),
        }
    },
)
