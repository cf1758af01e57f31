"""MMBench (arXiv 2307.06281): multiple choice, asked once for every rotation of the options (CircularEval).

File, as LLaVA's evaluation lays it out: one table `mmbench/*.tsv` that has answers, for example
`mmbench_dev_20230712.tsv` or `MMBench_DEV_EN.tsv` of the OpenCompass servers. Where the owners' table holds
the rotations itself (an index of 1,000,000 r + q is rotation r of question q) they are taken from it;
otherwise they are made. Tables with "cn" in their name are left alone: their instruction would be Chinese.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lit_cvit.data.benchmarks.general.base import (
    LETTER_INSTRUCTION,
    Question,
    Suite,
    one_of,
    text_of,
    with_options,
)
from lit_cvit.data.benchmarks.general.table import TableRow, read_table
from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.metrics import general

_LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("question", "hint", *_LETTERS, "answer", "category", "l2-category")
_PER_ROTATION = 1_000_000
_NOTHING = ("", "nan", "none")


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in (root / "mmbench").glob("*.tsv") if "cn" not in path.stem.casefold())


def _missing(root: Path) -> list[str]:
    if _tables(root):
        return []
    return [f"{root / 'mmbench' / 'mmbench_dev_20230712.tsv'}: the table of MMBench (any other .tsv will do)"]


def _read(root: Path, limit: int | None) -> Iterator[Question]:
    path, *others = _tables(root)
    if others:
        names = ", ".join(each.name for each in (path, *others))
        raise ValueError(f"{path.parent}: got the tables {names}; leave one of them in the folder")
    questions: dict[int, list[tuple[int, TableRow]]] = {}
    for row in read_table(path, _COLUMNS):
        number = _index(row)
        questions.setdefault(number % _PER_ROTATION, []).append((number // _PER_ROTATION, row))
    is_circular = any(rotation for passes in questions.values() for rotation, _ in passes)
    for number, passes in islice(questions.items(), limit):
        for rotation, row in passes:
            yield from _asked(number, row, (rotation,) if is_circular else None)


def _index(row: TableRow) -> int:
    text = text_of(row.cells, "index", row.place)
    if not text.isdecimal():
        raise ValueError(f"{row.place}: field 'index': got {text!r}; it must be a whole number")
    return int(text)


def _asked(number: int, row: TableRow, published: tuple[int] | None) -> Iterator[Question]:
    """The row as it is, if it is a published rotation; else every rotation of it."""
    choices = _choices(row)
    allowed = _LETTERS[: len(choices)]
    answer = allowed.index(one_of(text_of(row.cells, "answer", row.place), allowed, "answer", row.place))
    group = f"{text_of(row.cells, 'l2-category', row.place)}/{text_of(row.cells, 'category', row.place)}"
    hint, text = row.cells["hint"], text_of(row.cells, "question", row.place)
    stem = text if _is_nothing(hint) else f"{hint}\n{text}"
    for rotation in published or range(len(choices)):
        shift = 0 if published else rotation
        rotated = choices[shift:] + choices[:shift]
        yield Question(
            id=f"{group}/{number}/{rotation}",
            text=with_options(stem, rotated),
            answer=_LETTERS[(answer - shift) % len(choices)],
            image=row.image,
            choices=rotated,
        )


def _choices(row: TableRow) -> tuple[str, ...]:
    """The options up to the first that is not there."""
    filled = [letter for letter in _LETTERS if not _is_nothing(row.cells[letter])]
    choices = tuple(row.cells[letter] for letter in _LETTERS if letter in filled)
    if tuple(filled) != _LETTERS[: len(filled)] or not filled:
        shown = ", ".join(filled) or "none"
        raise ValueError(f"{row.place}: got the options {shown}; there must be some, without a gap")
    return choices


def _is_nothing(cell: str) -> bool:
    return cell.strip().casefold() in _NOTHING


SUITE = Suite(
    name="MMBench",
    answer_format=AnswerFormat.LETTER,
    scorer="letter",
    instruction=LETTER_INSTRUCTION,
    summary=general.mmbench,
    missing=_missing,
    read=_read,
)
