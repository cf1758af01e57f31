"""Where the records of a published benchmark lie: in prepared folders, or in the authors' own files.

A prepared folder is what `python -m lit_cvit prepare` writes: `ROOT/<Task>/train.jsonl`, `test.jsonl` and
`manifest.json`. Everything that is missing is named at once, before any record is read.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_cvit.data.records.parse import parse_record
from lit_cvit.data.records.source import RecordSource
from lit_cvit.utils.suggest import unknown

MANIFEST = "manifest.json"
_FILE_KEYS = ("train", "test", "image_root", "instruction")


@dataclass(frozen=True)
class Place:
    """The files of a task.

    Attributes:
        task: Name of the task.
        splits: Record file of each split that is read.
        image_root: Folder that image paths are relative to; None for a text-only task.
        authors: Whether the records are the authors' own, with instructions in their texts.
        instructions: Strings that the authors' records show, where the setting `files` lists them.
    """

    task: str
    splits: Mapping[str, Path]
    image_root: Path | None
    authors: bool = False
    instructions: tuple[str, ...] = ()

    def records(self, split: str, instructions: tuple[str, ...] = ()) -> RecordSource:
        """Open a split; training records of the authors may lack their ids.

        Raises:
            ValueError: the file is broken.
        """
        return RecordSource(
            self.splits[split],
            task=self.task,
            instructions=instructions,
            image_root=self.image_root,
            ids_required=not (self.authors and split == "train"),
        )

    def spelling(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The benchmark's instructions as the authors' files spell them, judged by the first test record.

        They may have line breaks as spaces, a small first letter, or a final full stop more or less.

        Raises:
            ValueError: the record has none of them in any spelling.
        """
        if self.instructions:
            return self.instructions
        file = self.records("test").file
        first = parse_record(file[0], place=file.where(0))
        text = (first.text or first.instruction or "").strip()
        for spelled in _spellings(known):
            if any(text.endswith(each) or text.startswith(f"{each}:") for each in spelled):
                return spelled
        raise ValueError(
            f"{self.splits['test']}: the first record shows none of the instructions of {self.task} "
            f"({'; '.join(map(repr, known))}); its text ends with {text[-90:]!r}. If the file is right, list "
            f"its instructions in data.settings.files.{self.task}.instruction"
        )


def _spellings(known: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    breaks = (lambda text: text, lambda text: text.replace("\n", " "))
    stops = (lambda text: text, lambda text: text.rstrip(".") + ".", lambda text: text.rstrip("."))
    firsts = (lambda text: text, lambda text: text[:1].lower() + text[1:])
    for change, stop, first in itertools.product(breaks, stops, firsts):
        yield tuple(dict.fromkeys(first(stop(change(text))) for text in known))


@dataclass
class Places:
    """Finds the files of a benchmark's tasks.

    Attributes:
        benchmark: Name of the benchmark.
        root: Folder that `prepare` wrote; None where `files` names every task.
        files: Setting `files`: for each task of it the authors' `train` and `test` file, and `image_root` and
            `instruction` where needed.
        image_root: Setting `image_root`: one folder for all tasks, or one for each task of a mapping.
        missing: What was not found so far, a line each.
    """

    benchmark: str
    root: str | None
    files: Mapping[str, Mapping[str, Any]]
    image_root: str | Mapping[str, str] | None
    missing: list[str] = field(default_factory=list)
    _unprepared: list[str] = field(default_factory=list)

    def find(self, splits_of: Mapping[str, tuple[str, ...]], known: tuple[str, ...]) -> dict[str, Place]:
        """Find the files of tasks.

        Args:
            splits_of: Splits that are needed of each task.
            known: Every task of the benchmark, for settings that name one.

        Raises:
            ValueError: a setting is not as it should be, or something is missing; names all that is.
        """
        self._check_settings(known)
        places = {name: self._place(name, splits) for name, splits in splits_of.items()}
        if self.missing:
            some_are_tests = any("train" not in splits for splits in splits_of.values())
            raise ValueError("\n".join([self._headline(), *self.missing, *self._advice(some_are_tests)]))
        return places

    def _check_settings(self, known: tuple[str, ...]) -> None:
        where = f"{self.benchmark}: data.settings"
        if self.root is not None and (not isinstance(self.root, str) or not self.root.strip()):
            raise ValueError(f"{where}.root must be the path of a folder, got {self.root!r}")
        if not isinstance(self.files, Mapping):
            raise ValueError(f"{where}.files must map tasks to their files, got {self.files!r}")
        named = dict.fromkeys(self.files)
        if isinstance(self.image_root, Mapping):
            named |= dict.fromkeys(self.image_root)
        elif self.image_root is not None and not isinstance(self.image_root, str):
            raise ValueError(
                f"{where}.image_root must be a folder, or map tasks to one, got {self.image_root!r}"
            )
        for name in named:
            if name not in known:
                raise ValueError(f"{where}: {unknown('task', name, known)}")
        for name, entry in self.files.items():
            if not isinstance(entry, Mapping):
                raise ValueError(f"{where}.files.{name} must have {', '.join(_FILE_KEYS)}, got {entry!r}")
            for key, value in entry.items():
                if key not in _FILE_KEYS:
                    raise ValueError(f"{where}.files.{name}: {unknown('key', key, _FILE_KEYS)}")
                texts = value if key == "instruction" and isinstance(value, list) and value else [value]
                if not all(isinstance(text, str) and text.strip() for text in texts):
                    raise ValueError(f"{where}.files.{name}.{key} must be a string, got {value!r}")

    def _place(self, name: str, splits: tuple[str, ...]) -> Place:
        return self._of_authors(name, splits) if name in self.files else self._prepared(name, splits)

    def _of_authors(self, name: str, splits: tuple[str, ...]) -> Place:
        entry = self.files[name]
        where = f"  data.settings.files.{name}"
        self.missing += [f"{where}.{split}: not given" for split in splits if split not in entry]
        found = {split: Path(entry[split]).expanduser() for split in splits if split in entry}
        self.missing += [
            f"{where}.{split}: no file {path}" for split, path in found.items() if not path.is_file()
        ]
        folder = entry.get("image_root", self._override(name))
        root = None if folder is None else Path(folder).expanduser()
        if root is not None and not root.is_dir():
            self.missing.append(f"{where}.image_root: no folder {root}")
        given = entry.get("instruction", ())
        strings = (given,) if isinstance(given, str) else tuple(given)
        return Place(name, found, root, authors=True, instructions=tuple(text.strip() for text in strings))

    def _prepared(self, name: str, splits: tuple[str, ...]) -> Place:
        if self.root is None:
            self.missing.append(f"  {name}: no data.settings.root to find it in")
            return Place(name, {}, None)
        folder = Path(self.root).expanduser() / name
        found = {split: folder / f"{split}.jsonl" for split in splits}
        override = self._override(name)
        # The manifest is written last: without it, records are those of a preparation that was cut off.
        needed = [path for path in (*found.values(), folder / MANIFEST) if not path.is_file()]
        if needed:
            what = ", ".join(path.name for path in needed) if folder.is_dir() else "folder"
            self.missing.append(f"  {name}: no {what}")
            self._unprepared.append(name)
            return Place(name, found, None)
        manifest = _read_manifest(folder / MANIFEST)
        if (other := manifest.get("benchmark", self.benchmark)) != self.benchmark:
            self.missing.append(f"  {name}: what lies there was prepared for the benchmark {other}")
            self._unprepared.append(name)
            return Place(name, found, None)
        root = folder / manifest["image_root"] if override is None else Path(override).expanduser()
        if not root.is_dir():
            fix = "set data.settings.image_root" if override is None else "as data.settings.image_root says"
            self.missing.append(f"  {name}: no folder of images {root}; {fix}")
        return Place(name, found, root)

    def _override(self, name: str) -> str | None:
        return self.image_root.get(name) if isinstance(self.image_root, Mapping) else self.image_root

    def _headline(self) -> str:
        if self.root is None:
            return f"{self.benchmark}: data is missing"
        state = "" if Path(self.root).expanduser().is_dir() else ", and there is no such folder"
        return f"{self.benchmark}: data is missing (data.settings.root is {self.root}{state})"

    def _advice(self, some_are_tests: bool) -> list[str]:
        if self.root is not None and not self._unprepared:
            return []
        out = "OUT" if self.root is None else shlex.quote(self.root)
        tasks = f" --tasks {' '.join(self._unprepared)}" if self._unprepared else ""
        command = f"python -m lit_cvit prepare --benchmark {self.benchmark} --raw RAW --out {out}{tasks}"
        fewer = ", or test on fewer (data.settings.downstream)" if some_are_tests else ""
        return [
            f"prepare it from the downloads in a folder RAW: {command}",
            f"or name instruction files in data.settings.files; or learn fewer tasks (data.tasks){fewer}",
        ]


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); prepare the task again") from error
    if not isinstance(found, dict) or not isinstance(found.get("image_root"), str):
        raise ValueError(f"{path}: it must be an object with a string 'image_root'; prepare the task again")
    return found
