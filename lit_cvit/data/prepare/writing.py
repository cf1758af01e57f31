"""Prepares one task: counts its rows, draws from them where a benchmark has fewer, and writes them.

Files are complete when they have their name: they are written beside it and renamed, the manifest last.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_cvit.data.prepare.base import Converter, Dropped, Raw, Rows, Split
from lit_cvit.data.prepare.drawing import Line, draw_in_words, drawn

MANIFEST = "manifest.json"
VERSION = 2
"""Raised when a converter gives other rows than before, so that prepared tasks are made again."""

NO_ANSWER = "no answer"
NO_IMAGE = "image file missing"
HALF_CHARACTER = "half a character (lone surrogate) in its text"
_STEP = 512
_SHOWN = 3

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        benchmark: Name of the benchmark.
        raw: Folder of the downloads.
        out: Folder of the prepared tasks.
        limit: Records a split, for a trial; 0 for all.
        without_images: Whether images lie elsewhere and are not looked for.
    """

    benchmark: str
    raw: Path
    out: Path
    limit: int = 0
    without_images: bool = False


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


def raw_problems(converter: Converter, request: Request) -> dict[Raw, str]:
    """Find the raw files of a task that are missing or empty, or a folder for a file, and say which it is."""
    problems, needed = {}, _all_raw(converter, request)
    for raw in needed:
        path, is_folder = request.raw / raw.path, raw.path.endswith("/")
        if not path.exists():
            if not raw.optional:
                problems[raw] = f"missing{_elsewhere(raw, needed, request.raw)}"
        elif path.is_dir() != is_folder:
            problems[raw] = "a file, it must be a folder" if is_folder else "a folder, it must be a file"
        elif not (any(path.iterdir()) if is_folder else path.stat().st_size):
            problems[raw] = "empty"
    return problems


def _elsewhere(raw: Raw, needed: Iterable[Raw], folder: Path) -> str:
    """Tell where a missing file may lie instead: some programs unpack into a folder of the archive's name."""
    data_set, name = raw.path.partition("/")[0], Path(raw.path).name
    taken = {folder / each.path for each in needed}
    for pattern in (name, f"{data_set}/{name}", f"{data_set}/*/{name}", f"{data_set}/*/*/{name}"):
        for path in sorted(folder.glob(pattern)):
            if path not in taken and path.is_dir() == raw.path.endswith("/"):
                return f"; there is {path.relative_to(folder)}: if it is this, move it"
    return ""


def prepare_task(converter: Converter, request: Request, advance: Advance) -> tuple[dict[str, Any], bool]:
    """Write the splits and the manifest of a task, unless they are there for the same raw files.

    Args:
        converter: The converter of the task.
        request: What is asked for.
        advance: Told about every few hundred rows that were read.

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
    if _is_complete(done, wanted, folder, splits):
        return done, True
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (MANIFEST, "train.jsonl", "test.jsonl"):
        (folder / stale).unlink(missing_ok=True)
    reports = {
        name: asdict(_write_split(name, split, converter, request, advance)) for name, split in splits.items()
    }
    manifest = {**wanted, "splits": reports}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    _replace(folder / MANIFEST, [text.encode("utf-8")])
    return manifest, False


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a prepared task; empty if there is none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_complete(done: dict[str, Any], wanted: dict[str, Any], folder: Path, splits: Iterable[str]) -> bool:
    if {name: value for name, value in done.items() if name != "splits"} != wanted:
        return False
    files = {name: folder / f"{name}.jsonl" for name in splits}
    return done["splits"].keys() == files.keys() and all(
        path.is_file() and _digest_of_file(path) == done["splits"][name]["digest"]
        for name, path in files.items()
    )


def _write_split(
    name: str, split: Split, converter: Converter, request: Request, advance: Advance
) -> SplitReport:
    images = None if request.without_images else request.raw / converter.images
    dropped: Counter[str] = Counter()
    num_found = itertools.count()
    rows = _counted(split.rows(request.raw), advance)
    lines = _usable(rows, dropped, images if converter.drops_missing_images else None)
    lines = (line for line, _ in zip(lines, num_found, strict=False))
    chosen = (
        itertools.islice(lines, request.limit)
        if request.limit
        else drawn(lines, split, f"{converter.task}/{name}")
    )
    missing: list[str] = []
    path = request.out / converter.task / f"{name}.jsonl"
    records, digest = _replace(path, (line.text for line in _looked_for(chosen, images, missing)))
    problem = _problem(records, missing, dropped, images)
    if problem:
        path.unlink()
        raise ValueError(f"{converter.task} {name}: {problem}")
    return SplitReport(
        records=records,
        found=next(num_found),
        dropped=dict(dropped.most_common()),
        digest=digest,
        published=split.published or None,
        draw=draw_in_words(split, request.limit),
        note=split.note,
    )


def _usable(rows: Rows, dropped: Counter[str], images: Path | None) -> Iterator[Line]:
    """Give the lines of rows to keep and count the others; with `images`, a row must have its image there."""
    exists = _finder(images)
    for row in rows:
        if isinstance(row, Dropped):
            dropped[row.reason] += 1
        elif not row["answers"] or not row["answers"][0].strip():
            dropped[NO_ANSWER] += 1
        elif not exists(row.get("image", "")):
            dropped[NO_IMAGE] += 1
        else:
            try:
                text = json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
            except UnicodeEncodeError:
                dropped[HALF_CHARACTER] += 1
                continue
            yield Line(row["id"], row.get("image", ""), row["answers"][0], text)


def _looked_for(lines: Iterable[Line], images: Path | None, missing: list[str]) -> Iterator[Line]:
    exists = _finder(images)
    for line in lines:
        if not exists(line.image):
            missing.append(line.image)
        yield line


def _finder(images: Path | None) -> Callable[[str], bool]:
    # Questions about one image mostly stand together.
    @lru_cache(maxsize=1024)
    def exists(image: str) -> bool:
        return images is None or not image or (images / image).is_file()

    return exists


def _problem(records: int, missing: list[str], dropped: Counter[str], images: Path | None) -> str:
    if missing:
        shown = ", ".join(list(dict.fromkeys(missing))[:_SHOWN])
        place = (images or Path()) / missing[0]
        deeper = next(iter(sorted(place.parent.glob(f"*/{place.name}"))), None)
        hint = f"; there is {deeper}: move what is in that folder up" if deeper else ""
        return (
            f"{len(missing)} of {records} records name images that are missing under {images}, such as "
            f"{shown}; unpack them there, or give --without_images if they lie elsewhere{hint}"
        )
    if not records:
        return f"no record is left; dropped: {dict(dropped) or 'none, the raw files have none'}"
    return ""


def _counted(rows: Rows, advance: Advance) -> Rows:
    number = 0
    for number, row in enumerate(rows, 1):
        if number % _STEP == 0:
            advance(_STEP)
        yield row
    advance(number % _STEP)


def _replace(path: Path, chunks: Iterable[bytes]) -> tuple[int, str]:
    """Write a file beside its place and rename it; return the number of chunks and the file's digest."""
    part = path.with_name(f"{path.name}.part")
    hashed, number = hashlib.blake2b(digest_size=16), 0
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                hashed.update(chunk)
                number += 1
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    return number, hashed.hexdigest()


def _all_raw(converter: Converter, request: Request) -> list[Raw]:
    """Raw files and folders that a request needs, each once."""
    found = [raw for split in converter.splits[request.benchmark].values() for raw in split.raw]
    return [
        raw
        for raw in dict.fromkeys(found)
        if raw.is_list or not raw.path.endswith("/") or not request.without_images
    ]


def _digests(converter: Converter, request: Request) -> dict[str, str]:
    """Digests of all that decides the rows: files, and the names in a folder where those do."""
    digests = {}
    for raw in _all_raw(converter, request):
        path = request.raw / raw.path
        if not path.exists():
            digests[raw.path] = ""
        elif not raw.path.endswith("/"):
            digests[raw.path] = _digest_of_file(path)
        elif raw.is_list or converter.drops_missing_images:
            digests[raw.path] = _digest_of_names(path)
    return digests


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_of_names(folder: Path) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            hashed.update(f"{os.path.relpath(place, folder)}/{name}\n".encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()
