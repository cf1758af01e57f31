"""IconQA of UCIT: questions about abstract diagrams (Lu et al., arXiv 2110.13214).

UCIT takes two of the three kinds of question, all 29,859 of their training split: those with options in
words, answered by letter, and those without options, answered by a word or number. It tests on 3,000 of the
owner's validation split. Questions with pictures as options need several images and are in none of its files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

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

NO_PROBLEM = "listed in pid_splits.json, but not in problems.json"
NO_OPTION = "answer that is none of the options"
_CHOOSE, _FILL_IN = "choose_txt", "fill_in_blank"
_FIELDS: Fields = {"question": str, "ques_type": str, "answer": (int, str)}
_PROBLEMS, _SPLITS = "IconQA/iconqa_data/problems.json", "IconQA/iconqa_data/pid_splits.json"


def _rows(raw: Path, *, split: str) -> Rows:
    kinds = (_CHOOSE, _FILL_IN)
    problems = {
        id_: problem for id_, problem in entries(raw / _PROBLEMS, _FIELDS) if problem["ques_type"] in kinds
    }
    lists = dict(members(raw / _SPLITS))
    for kind in kinds:
        ids = strings(lists.get(f"{kind}_{split}"), f"{raw / _SPLITS}: field '{kind}_{split}'")
        for id_ in ids:
            if id_ in problems:
                image = f"iconqa/{split}/{kind}/{id_}/image.png"
                yield _row(id_, image, problems[id_], f"{raw / _PROBLEMS}, [{id_!r}]")
            else:
                yield Dropped(NO_PROBLEM)


def _row(id_: str, image: str, problem: Row, place: str) -> Row | Dropped:
    row = {"id": id_, "image": image, "question": problem["question"].strip()}
    if problem["ques_type"] == _FILL_IN:
        return {**row, "answers": [str(problem["answer"])]}
    choices = strings(problem.get("choices"), f"{place}: field 'choices'")
    answer = str(problem["answer"])
    if not answer.isdecimal() or int(answer) >= len(choices):
        return Dropped(NO_OPTION)
    letter = chr(ord("A") + int(answer))
    return {
        **row,
        "question": f"{row['question']}\n{lettered(choices)}",
        "choices": choices,
        "answers": [letter],
    }


def _raw(split: str) -> tuple[Raw, ...]:
    source = "iconqa_data.zip at https://iconqa.github.io"
    folders = (
        Raw(f"IconQA/iconqa_data/iconqa/{split}/{kind}/", "diagrams", source) for kind in (_CHOOSE, _FILL_IN)
    )
    return (
        Raw(_PROBLEMS, "questions and answers", source),
        Raw(_SPLITS, "the owner's splits", source),
        *folders,
    )


CONVERTER = Converter(
    task="IconQA",
    data_set="IconQA",
    images="IconQA/iconqa_data",
    splits={
        "ucit": {
            "train": Split(partial(_rows, split="train"), _raw("train"), published=29_859),
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
