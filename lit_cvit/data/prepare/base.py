"""What a converter says about its data set, and how it reads the owner's files.

A converter is a module of this package with a `CONVERTER`. It only says which raw files a task needs and
turns them into rows; `writing` and `drawing` do the rest, `running` runs many. Nothing here imports torch.

A row is a dict of `id`, `answers` (the first is trained on; no blank one may be first) and where they apply
`image` (relative to the converter's `images`), `question`, `choices`, `bbox`, `size`. It has no instruction:
the benchmark adds that.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lit_cvit.data.prepare.scanning import members, text_lines
from lit_cvit.utils.wording import printed

Fields = Mapping[str, type | tuple[type, ...]]
"""Fields that an entry of a raw file must have, with the Python types that JSON may give them."""

_KINDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


_Entry = TypeVar("_Entry")
_SHOWN = 8


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
class Dropped:
    """Stands in the place of a row that is left out.

    Attributes:
        reason: Why, in words that are the same for all rows of one kind: they are counted by it.
    """

    reason: str


Row = dict[str, Any]
Rows = Iterator[Row | Dropped]


@dataclass(frozen=True)
class Raw:
    """A file or folder that its owner publishes.

    Attributes:
        path: Place relative to RAW, the data set's folder first ("VQAv2/questions.json"); a folder ends
            in "/" ("COCO2014/train2014/").
        what: What it is, for the message about a missing one.
        source: Where to get it: an address, or the name of an archive and its address.
        is_list: True for a folder whose file names decide the records (ImageNet); other folders only hold
            the images that records name, and are not looked for with `--without_images`.
        optional: True for a file that is used if it is there.
    """

    path: str
    what: str
    source: str
    is_list: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Split:
    """One split of a task, as one benchmark has it.

    Attributes:
        rows: Takes the folder RAW, gives rows and what is dropped, one after the other.
        raw: What `rows` reads and the images its rows name.
        published: Number of records that the benchmark's authors print; 0 where they print none. The
            benchmark reads it here too.
        unit: What that number is printed in: 1000 for "12k".
        per_image: How many rows to keep of each image, by the hash of their ids; 0 keeps all.
        per_class: How many rows to keep of each first answer, by the hash of their ids; 0 keeps all.
        draw: How many rows to keep in all, by the hash of their ids; 0 keeps all.
        note: How the split differs from the published one, or why it may.
    """

    rows: Callable[[Path], Rows]
    raw: tuple[Raw, ...]
    published: int = 0
    unit: int = 1
    per_image: int = 0
    per_class: int = 0
    draw: int = 0
    note: str = ""

    @property
    def printed(self) -> str:
        """The published number in words; empty where there is none."""
        return printed(self.published, self.unit) if self.published else ""


@dataclass(frozen=True)
class Converter:
    """A task and the data set it is made from.

    Attributes:
        task: Name of the task, as benchmarks spell it.
        data_set: Name of the data set, for people.
        images: Folder under RAW that the images of rows are relative to.
        splits: Splits (`train`, `test`) of the task in each benchmark that has it:
            {"cvit": {"train": Split(...), "test": Split(...)}, "coin": ...}.
        drops_missing_images: Whether a row without its image file is dropped (owners that publish addresses
            of images, some of which are dead); otherwise it is an error.
        lists: Files to write beside the records, by name, each with what gives its lines from RAW: what the
            converter chose where the owner leaves it open ("classes.txt").
    """

    task: str
    data_set: str
    images: str
    splits: Mapping[str, Mapping[str, Split]]
    drops_missing_images: bool = False
    lists: Mapping[str, Callable[[Path], list[str]]] = dataclass_field(default_factory=dict)


def entries(
    path: Path, fields: Fields, key: str = "", stated: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Row]]:
    """Read the objects of a JSON file one by one, however many there are.

    They stand in a list, given as ("0", {...}), or in an object of objects, given as ("its key", {...}).

    Args:
        path: The file.
        fields: What every object must have.
        key: Field of the file's top object that they stand in; empty for the top itself.
        stated: Fields by which the file says what it is, such as its split, with what they must say wherever
            the top object or an entry has them.

    Raises:
        ValueError: the file is not JSON, has no such list or object, one of its objects lacks a field, or it
            says that it is another file; names file, place, field and the value got.
    """
    expected = stated or {}

    def compare(place: str, name: str, value: object) -> None:
        if name in expected and value not in (None, expected[name]):
            raise ValueError(
                f"{place}: field {name!r} is {reprlib.repr(value)}, must be {expected[name]!r}; this is the "
                "file of another split under this name, get the right one"
            )

    for name, entry in members(path, key, partial(compare, str(path)) if stated else None):
        place = f"{path}, {key}[{name}]"
        found = checked(entry, fields, place)
        for each in expected:
            compare(place, each, found.get(each))
        yield name, found


def of_splits(
    listed: Iterable[_Entry], split_of: Callable[[_Entry], object], wanted: Collection[object], path: Path
) -> Iterator[_Entry]:
    """Give the entries of some splits, where a file holds several.

    Args:
        listed: The entries.
        split_of: Gives the split of an entry.
        wanted: The splits; at least one of them must be there.
        path: The file, for the message.

    Raises:
        ValueError: no entry is of these splits; names the file and the splits that it has.
    """
    seen: Counter[object] = Counter()
    for entry in listed:
        split = split_of(entry)
        seen[split] += 1
        if split in wanted:
            yield entry
    if not any(split in seen for split in wanted):
        names = " or ".join(repr(split) for split in wanted)
        has = ", ".join(f"{split!r} ({count})" for split, count in seen.most_common(_SHOWN)) or "none"
        raise ValueError(f"{path}: it has no entry of split {names}; splits that it has: {has}")


def read_jsonl(path: Path, fields: Fields) -> Iterator[tuple[str, Row]]:
    """Read a file with one JSON object a line, line by line: ("17", {...}), counted from 1.

    Raises:
        ValueError: a line is not a JSON object or lacks a field, or the file is no text; names it.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: broken JSON: {error}") from error
        yield str(number), checked(entry, fields, f"{path}, line {number}")


def checked(entry: object, fields: Fields, place: str) -> Row:
    """Check that an entry of a raw file is an object with these fields, and return it.

    Raises:
        ValueError: it is not; starts with `place`, names the field and the value got.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: got {reprlib.repr(entry)}; it must be an object")
    for field, kinds in fields.items():
        if field not in entry or not isinstance(entry[field], kinds):
            allowed = " or ".join(_KINDS[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
            got = reprlib.repr(entry[field]) if field in entry else f"only {', '.join(map(repr, entry))}"
            raise ValueError(
                f"{place}: field {field!r} must be {allowed}, got {got}; is this the file of another "
                "release or split?"
            )
    return entry


def strings(found: object, place: str) -> list[str]:
    """Check that a field of a raw file is a list of strings, and return it.

    Raises:
        ValueError: it is not; starts with `place`, names the value got.
    """
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{place}: got {reprlib.repr(found)}; it must be a list of strings")
    return found


def most_frequent_first(answers: Iterable[str]) -> list[str]:
    """Return all answers, those equal to the most frequent one (the earliest of equals) first."""
    listed = list(answers)
    if not listed:
        return []
    best = Counter(listed).most_common(1)[0][0]
    return sorted(listed, key=lambda answer: answer != best)


def lettered(choices: Iterable[str]) -> str:
    """Write the options of a question as "A. ...", one a line."""
    return "\n".join(f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices))


def chance(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone; it decides what the owner leaves open."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
