"""Prepares one task: counts its rows, draws from them where a benchmark has fewer, and writes them.

Files are complete when they have their name: they are written beside it and renamed, the manifest last.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_cvit.data.prepare.base import Converter, Dropped, Request, Rows, Split
from lit_cvit.data.prepare.drawing import Line, draw_in_words, drawn
from lit_cvit.data.prepare.locating import NO_IMAGE, ImageFolder, all_raw
from lit_cvit.data.prepare.storing import MANIFEST, digest_of_file, digest_of_names, only_writer, replace_file

VERSION = 2
"""Raised when a converter gives other rows than before, so that prepared tasks are made again."""

NO_ANSWER = "no answer"
HALF_CHARACTER = "half a character (lone surrogate) in its text"
_STEP = 512

Advance = Callable[[int], None]


@dataclass(frozen=True)
class SplitReport:
    """What became of one split.

    Attributes:
        records: Rows written.
        found: Usable rows before the draw; with a limit, as many as were read.
        dropped: Number of rows left out, by reason.
        digest: BLAKE2b of the written file, 32 hex digits.
        published: Number that the benchmark's authors print; None where they print none.
        draw: How the records were chosen among those found; empty when all were taken.
        note: How the split differs from the published one.
    """

    records: int
    found: int
    dropped: dict[str, int]
    digest: str
    published: int | None
    draw: str
    note: str


def prepare_task(converter: Converter, request: Request, advance: Advance) -> tuple[dict[str, Any], bool]:
    """Write the splits and the manifest of a task, unless they are there for the same raw files.

    Args:
        converter: The converter of the task.
        request: What is asked for.
        advance: Called about every few hundred rows that were read.

    Returns:
        The manifest, and whether it was there already.

    Raises:
        ValueError: a raw file is not as it should be, or images are missing; names the file.
    """
    folder = request.out / converter.task
    wanted = {
        "task": converter.task,
        "data_set": converter.data_set,
        "benchmark": request.benchmark,
        # A relative path from behind a link would lead elsewhere.
        "image_root": os.path.relpath(request.raw.resolve() / converter.images, folder.resolve()),
        "raw": _digests(converter, request),
        "limit": request.limit,
        "without_images": request.without_images,
        "version": VERSION,
    }
    splits = converter.splits[request.benchmark]
    done = read_manifest(folder)
    if _is_complete(done, wanted, folder, converter, splits):
        return done, True
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        for stale in (MANIFEST, "train.jsonl", "test.jsonl"):
            (folder / stale).unlink(missing_ok=True)
        lists = _write_lists(converter, request)
        reports = {
            name: asdict(_write_split(name, split, converter, request, advance))
            for name, split in splits.items()
        }
        manifest = {**wanted, **({"lists": lists} if lists else {}), "splits": reports}
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        replace_file(folder / MANIFEST, [text.encode("utf-8")])
    return manifest, False


def list_ahead(converter: Converter, request: Request) -> list[Path]:
    """Write the lists of a task that cannot be prepared yet, as they say which images to get; return them.

    Lists beside records that are there are left alone.

    Raises:
        ValueError: a raw file is not as it should be, or another process writes the task.
    """
    folder = request.out / converter.task
    if not converter.lists or read_manifest(folder):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        return [folder / name for name in _write_lists(converter, request)]


def _write_lists(converter: Converter, request: Request) -> dict[str, int]:
    """Write the lists of a task; return the number of lines of each."""
    counts = {}
    for name, lines_of in converter.lists.items():
        lines = (f"{line}\n".encode() for line in lines_of(request.raw))
        counts[name], _ = replace_file(request.out / converter.task / name, lines)
    return counts


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a prepared task; empty if there is none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_complete(
    done: dict[str, Any], wanted: dict[str, Any], folder: Path, converter: Converter, splits: Iterable[str]
) -> bool:
    if {name: value for name, value in done.items() if name not in ("lists", "splits")} != wanted:
        return False
    if done.get("lists", {}).keys() != converter.lists.keys():
        return False
    if not all((folder / name).is_file() for name in converter.lists):
        return False
    files = {name: folder / f"{name}.jsonl" for name in splits}
    return done["splits"].keys() == files.keys() and all(
        path.is_file() and digest_of_file(path) == done["splits"][name]["digest"]
        for name, path in files.items()
    )


def _write_split(
    name: str, split: Split, converter: Converter, request: Request, advance: Advance
) -> SplitReport:
    images = ImageFolder(None if request.without_images else request.raw / converter.images)
    dropped: Counter[str] = Counter()
    num_found = itertools.count()
    rows = _counted(split.rows(request.raw), advance)
    lines = _usable(rows, dropped, images if converter.drops_missing_images else ImageFolder(None))
    lines = (line for line, _ in zip(lines, num_found, strict=False))
    chosen = (
        itertools.islice(lines, request.limit)
        if request.limit
        else drawn(lines, split, f"{converter.task}/{name}")
    )
    missing: Counter[str] = Counter()
    path = request.out / converter.task / f"{name}.jsonl"
    records, digest = replace_file(path, (line.text for line in _counting_missing(chosen, images, missing)))
    problem = _problem(records, missing, dropped, images)
    if problem:
        path.unlink()
        raise ValueError(f"{name} split: {problem}")
    return SplitReport(
        records=records,
        found=next(num_found),
        dropped=dict(dropped.most_common()),
        digest=digest,
        published=split.published or None,
        draw=draw_in_words(split, request.limit),
        note=split.note,
    )


def _usable(rows: Rows, dropped: Counter[str], images: ImageFolder) -> Iterator[Line]:
    """Give the lines of rows to keep and count the others; a row must have its image in `images`."""
    for row in rows:
        if isinstance(row, Dropped):
            dropped[row.reason] += 1
        elif not row["answers"] or not row["answers"][0].strip():
            dropped[NO_ANSWER] += 1
        elif reason := images.problem(row.get("image", "")):
            dropped[reason] += 1
        else:
            try:
                text = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
            except UnicodeEncodeError:
                dropped[HALF_CHARACTER] += 1
                continue
            yield Line(row["id"], row.get("image", ""), row["answers"][0], text)


def _counting_missing(lines: Iterable[Line], images: ImageFolder, missing: Counter[str]) -> Iterator[Line]:
    for line in lines:
        if reason := images.problem(line.image):
            missing[reason] += 1
        yield line


def _problem(records: int, missing: Counter[str], dropped: Counter[str], images: ImageFolder) -> str:
    if missing:
        what = "missing" if set(missing) == {NO_IMAGE} else "missing or linked from elsewhere"
        return (
            f"{missing.total()} of {records} records name images that are {what} {images.where()}; "
            f"{images.advice()}"
        )
    if not records:
        reasons = "; ".join(f"dropped {count}: {reason}" for reason, count in dropped.most_common())
        looked = f". Images were looked for {images.where()}; {images.advice()}" if images.lost else ""
        return f"no record is left; {reasons or 'the raw files have none'}{looked}"
    return ""


def _counted(rows: Rows, advance: Advance) -> Rows:
    number = 0
    for number, row in enumerate(rows, 1):
        if number % _STEP == 0:
            advance(_STEP)
        yield row
    advance(number % _STEP)


def _digests(converter: Converter, request: Request) -> dict[str, str]:
    """Digests of all that decides the rows: files, and the names in a folder where those do."""
    digests = {}
    for raw in all_raw(converter, request):
        path = request.raw / raw.path
        if not path.exists():
            digests[raw.path] = ""
        elif not raw.path.endswith("/"):
            digests[raw.path] = digest_of_file(path)
        elif raw.is_list or converter.drops_missing_images:
            digests[raw.path] = digest_of_names(path)
    return digests
