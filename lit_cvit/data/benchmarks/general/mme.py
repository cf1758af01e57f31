"""MME (arXiv 2306.13394): two questions on every image, one to be answered with yes and one with no.

Files, as LLaVA's evaluation lays them out: `MME/MME_Benchmark_release_version/<category>/`, or
`MME/<category>/`, for the 14 categories. A category holds images and, beside each or in
`questions_answers_YN/` (the images are in `images/` then), a .txt file of its name with the lines
"question<tab>Yes" and "question<tab>No". VLMEvalKit's table `MME/MME.tsv` is read too, where there are no
such folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lit_cvit.data.benchmarks.general.base import SHORT_INSTRUCTION, Question, Suite, one_of, text_of
from lit_cvit.data.benchmarks.general.table import read_table
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import AnswerFormat
from lit_cvit.metrics import general

_CATEGORIES = tuple(name for names in general.MME_CATEGORIES.values() for name in names)
_SUFFIXES = (".jpg", ".jpeg", ".png")
# LLaVA asks for the short answer in its own words instead.
_OWN_INSTRUCTION = "Please answer yes or no."


def _folder(root: Path) -> Path:
    unpacked = root / "MME" / "MME_Benchmark_release_version"
    return unpacked if unpacked.is_dir() else root / "MME"


def _table(root: Path) -> Path | None:
    """The table, if it stands in for the folders."""
    path = root / "MME" / "MME.tsv"
    has_folders = any((_folder(root) / category).is_dir() for category in _CATEGORIES)
    return path if path.is_file() and not has_folders else None


def _missing(root: Path) -> list[str]:
    if _table(root):
        return []
    found = []
    for category in _CATEGORIES:
        pairs = _pairs(_folder(root) / category)
        if not pairs:
            found.append(f"{_folder(root) / category}: folder of images and .txt files of MME")
        found += [f"{text}: no image of that name beside it, for MME" for text, image in pairs if not image]
    return found


def _pairs(folder: Path) -> list[tuple[Path, Path | None]]:
    """Files of questions with their images, sorted by name."""
    texts, images = folder / "questions_answers_YN", folder / "images"
    texts, images = (each if each.is_dir() else folder for each in (texts, images))
    by_stem = {path.stem: path for path in images.glob("*") if path.suffix.lower() in _SUFFIXES}
    return [(path, by_stem.get(path.stem)) for path in sorted(texts.glob("*.txt"))]


def _read(root: Path, limit: int | None) -> Iterator[Question]:
    table = _table(root)
    if table:
        yield from _read_table(table, limit)
        return
    for category in _CATEGORIES:
        for path, image in _pairs(_folder(root) / category)[:limit]:
            assert image is not None, "missing files are refused before reading"
            yield from _read_pair(category, path, image)


def _read_pair(category: str, path: Path, image: Path) -> Iterator[Question]:
    try:
        # Not `splitlines`, which also breaks at marks that may stand in a question.
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error
    if len(lines) != 2:
        raise ValueError(f"{path}: got {len(lines)} lines; MME has two questions on every image")
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        question, tab, answer = line.rpartition("\t")
        if not tab:
            raise ValueError(f"{place}: got {line!r:.80}; it must be a question, a tab, and Yes or No")
        yield Question(
            id=f"{category}/{image.name}/{number}",
            text=_worded(text_of({"question": question}, "question", place)),
            answer=_yes_or_no(answer, place),
            image=FileImage(image.parent, image.name, record=place),
        )


def _read_table(path: Path, limit: int | None) -> Iterator[Question]:
    numbers: dict[tuple[str, str], int] = {}
    for row in read_table(path, ("question", "answer", "category", "image_path")):
        category = one_of(row.cells["category"], _CATEGORIES, "category", row.place)
        key = (category, PurePosixPath(text_of(row.cells, "image_path", row.place)).name)
        numbers[key] = numbers.get(key, 0) + 1
        if limit is not None and sum(name == category for name, _ in numbers) > limit:
            continue
        yield Question(
            id=f"{category}/{key[1]}/{numbers[key]}",
            text=_worded(text_of(row.cells, "question", row.place)),
            answer=_yes_or_no(row.cells["answer"], row.place),
            image=row.image,
        )


def _worded(question: str) -> str:
    return question.replace(_OWN_INSTRUCTION, "").strip()


def _yes_or_no(answer: str, place: str) -> str:
    return one_of(answer.strip().lower(), ("yes", "no"), "answer", place)


SUITE = Suite(
    name="MME",
    answer_format=AnswerFormat.SHORT,
    scorer="official_mme",
    instruction=SHORT_INSTRUCTION,
    summary=general.mme,
    missing=_missing,
    read=_read,
)
