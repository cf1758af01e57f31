"""POPE (arXiv 2305.10355): whether an object is in the image; three subsets differ in how it was chosen.

Files, as LLaVA's evaluation lays them out: `pope/coco/coco_pope_{random,popular,adversarial}.json` (JSON
lines, github.com/AoiDragon/POPE, output/coco) and `pope/val2014/` (the images of COCO val2014).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lit_cvit.data.benchmarks.general.base import SHORT_INSTRUCTION, Question, Suite, lacking, one_of, text_of
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.file import RecordFile
from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.metrics import general

_SUBSETS = ("random", "popular", "adversarial")


def _files(root: Path) -> dict[str, Path]:
    return {subset: root / "pope" / "coco" / f"coco_pope_{subset}.json" for subset in _SUBSETS}


def _images(root: Path) -> Path:
    return root / "pope" / "val2014"


def _missing(root: Path) -> list[str]:
    found = [each for path in _files(root).values() for each in lacking(path, "questions of POPE")]
    return [*found, *lacking(_images(root), "folder of the images of COCO val2014, for POPE")]


def _read(root: Path, limit: int | None) -> Iterator[Question]:
    for subset, path in _files(root).items():
        records = RecordFile(path)
        for index in range(len(records) if limit is None else min(limit, len(records))):
            row, place = records[index], records.where(index)
            yield Question(
                id=f"{subset}/{text_of(row, 'question_id', place)}",
                text=text_of(row, "text", place),
                answer=one_of(text_of(row, "label", place), ("yes", "no"), "label", place),
                image=FileImage(_images(root), text_of(row, "image", place), record=place),
            )


SUITE = Suite(
    name="POPE",
    answer_format=AnswerFormat.SHORT,
    scorer="official_pope",
    instruction=SHORT_INSTRUCTION,
    summary=general.pope,
    missing=_missing,
    read=_read,
)
