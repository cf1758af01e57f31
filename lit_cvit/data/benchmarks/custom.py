"""`custom`: any list of tasks in a YAML file, over record files and image folders.

    name: my-stream                 # optional; default: the file's name
    tasks:                          # in the order in which they are learned
      - name: Signs                 # ASCII letters, digits, '.', '_', '-': file names are made from it
        train: signs/train.json     # paths are relative to this file
        test: signs/test.jsonl
        image_root: images          # leave out for a text-only task
        answer_format: short        # letter | short | caption | box
        scorer: exact               # docs/scorers.md lists all
        also: [short_answer]        # optional: further scorers, reported beside the main one
        instruction:                # a string, a list of strings, or `none`
          - Answer the question using a single word or phrase.
        max_new_tokens: 16          # optional
        limit: 500                  # optional: at most so many records of each split
        downstream: zero_shot       # optional: zero_shot (only tested) | few_shot; not part of the stream

Forms of the records: `lit_cvit.data.records.parse`; training records may lack their ids. The user's text of a
record ends with one of the task's instructions (the longest that fits), kept apart from the question.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.tasks import AnswerFormat, Benchmark, Task
from lit_cvit.metrics.scoring import Scorer, scorer
from lit_cvit.utils.suggest import unknown
from lit_cvit.utils.yaml_file import read_yaml

_FILE_KEYS = ("name", "tasks")
_REQUIRED = ("name", "test", "answer_format", "scorer", "instruction")
_TASK_KEYS = (*_REQUIRED, "also", "train", "image_root", "max_new_tokens", "limit", "downstream")
_DOWNSTREAM = ("zero_shot", "few_shot")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def custom(path: Path | str) -> Benchmark:
    """Build the benchmark that a YAML file describes (see the module's docstring).

    Raises:
        ValueError: the file or a file it names is missing or broken, or a key is unknown, missing, of the
            wrong type or out of range; names the file, the task, the key, the value got, what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `custom` needs a YAML file that lists tasks")
    data = read_yaml(path, content="with the key 'tasks'")
    _check_keys(data, _FILE_KEYS, ("tasks",), place=str(path))
    top = _Settings(data, str(path), path.parent)
    rows = data["tasks"]
    if not isinstance(rows, list) or not rows:
        top.fail("tasks", "it must be a list with at least one task")
    stream: list[Task] = []
    downstream: list[Task] = []
    for position, row in enumerate(rows):
        place = f"{path}, task {position + 1}"
        if not isinstance(row, dict):
            raise ValueError(f"{place}: got {row!r}; a task is a mapping of keys ({', '.join(_TASK_KEYS)})")
        task, is_downstream = _task(row, place, path.parent)
        if any(task.name.casefold() == other.name.casefold() for other in (*stream, *downstream)):
            raise ValueError(f"{place}: name {task.name!r} is taken by an earlier task; names must differ")
        (downstream if is_downstream else stream).append(task)
    if not stream:
        raise ValueError(f"{path}: every task is downstream; at least one must be in the stream")
    name = top.name() if "name" in data else path.stem
    return Benchmark(name=name, stream=tuple(stream), downstream=tuple(downstream))


def _task(row: Mapping[str, Any], place: str, folder: Path) -> tuple[Task, bool]:
    if isinstance(row.get("name"), str):
        place = f"{place} ({row['name']!r})"
    _check_keys(row, _TASK_KEYS, _REQUIRED, place=place)
    settings = _Settings(row, place, folder)
    role = settings.choice("downstream", _DOWNSTREAM) if "downstream" in row else ""
    if role == "zero_shot" and "train" in row:
        warnings.warn(f"{place}: 'train' is ignored, a zero_shot task is only tested", stacklevel=3)
    elif role != "zero_shot" and "train" not in row:
        settings.fail("train", "it is needed for every task that is not 'downstream: zero_shot'")
    train = None if role == "zero_shot" else settings.source("train")
    task = Task(
        name=settings.name(),
        answer_format=AnswerFormat(settings.choice("answer_format", tuple(AnswerFormat))),
        scorer=settings.scorer("scorer", settings.text("scorer")),
        also=settings.also(),
        test=settings.source("test"),
        train=train,
        instructions=settings.instructions(),
        max_new_tokens=settings.count("max_new_tokens") or 0,
        few_shot=role == "few_shot",
    )
    return task, bool(role)


class _Settings:
    """Typed access to the keys of one mapping; `place` is what messages start with."""

    def __init__(self, row: Mapping[str, Any], place: str, folder: Path) -> None:
        self.row = row
        self.place = place
        self.folder = folder

    def fail(self, key: str, fix: str) -> NoReturn:
        shown = repr(self.row[key]) if key in self.row else "nothing"
        raise ValueError(f"{self.place}: {key!r}: got {shown}; {fix}")

    def text(self, key: str) -> str:
        value = self.row[key]
        if not isinstance(value, str) or not value.strip():
            self.fail(key, "it must be a string that is not blank; put it in quotes")
        return value.strip()

    def name(self) -> str:
        name = self.text("name")
        if not _NAME.fullmatch(name):
            # It becomes part of file names, and a label of figures, whose fonts lack most scripts.
            fix = "use ASCII letters, digits, '.', '_' and '-', and start with a letter or digit"
            self.fail("name", f"{fix}; all other texts may be in any language")
        return name

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.row[key]
        if value not in allowed:
            raise ValueError(f"{self.place}: {unknown(key, value, map(str, allowed))}")
        return value

    def count(self, key: str) -> int | None:
        if key not in self.row:
            return None
        value = self.row[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.fail(key, "it must be a whole number of at least 1")
        return value

    def scorer(self, key: str, name: str) -> Scorer:
        try:
            return scorer(name)
        except ValueError as error:
            raise ValueError(f"{self.place}: {key!r}: {error}") from error

    def also(self) -> tuple[Scorer, ...]:
        names = self.row.get("also", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.fail("also", "it must be a list of scorers")
        if len({self.text("scorer"), *names}) <= len(names):
            self.fail("also", "every scorer may be listed once, and not the task's own")
        return tuple(self.scorer("also", name) for name in names)

    def instructions(self) -> tuple[str, ...]:
        value = self.row["instruction"]
        if value == "none":
            return ()
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts:
            self.fail(
                "instruction", "it must be a string, a list of strings, or `none` for texts without one"
            )
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                self.fail("instruction", "every instruction must be a string that is not blank")
        stripped = tuple(text.strip() for text in texts)
        if len(set(stripped)) < len(stripped):
            self.fail("instruction", "every instruction may be listed once")
        return stripped

    def source(self, key: str) -> RecordSource:
        root = None
        if "image_root" in self.row:
            root = self.folder / Path(self.text("image_root")).expanduser()
            if not root.is_dir():
                self.fail("image_root", f"there is no folder {root}; paths are relative to the YAML file")
        path = self.folder / Path(self.text(key)).expanduser()
        name, limit = self.name(), self.count("limit")
        instructions = self.instructions()
        try:
            return RecordSource(
                path,
                task=name,
                instructions=instructions,
                image_root=root,
                limit=limit,
                ids_required=key != "train",
            )
        except ValueError as error:
            raise ValueError(f"{self.place}: {key!r}: {error}") from error


def _check_keys(
    row: Mapping[str, Any], known: tuple[str, ...], required: tuple[str, ...], *, place: str
) -> None:
    for key in row:
        if key not in known:
            raise ValueError(f"{place}: {unknown('key', key, known)}")
    for key in required:
        if key not in row:
            hint = "; say `instruction: none` for texts without one" if key == "instruction" else ""
            raise ValueError(f"{place}: the key {key!r} is missing; required: {', '.join(required)}{hint}")
