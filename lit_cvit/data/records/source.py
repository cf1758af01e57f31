"""A split of a task read from a record file."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from lit_cvit.data.errors import RecordError
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.file import RecordFile
from lit_cvit.data.records.parse import Record, parse_record
from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Sample


class RecordSource:
    """The samples of a record file and an image folder; a `SampleSource`. Picklable.

    Attributes:
        file: The record file.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        task: str,
        instructions: tuple[str, ...] = (),
        image_root: Path | None = None,
        limit: int | None = None,
        ids_required: bool = True,
    ) -> None:
        """Index the record file.

        Args:
            path: JSON or JSONL file of records.
            task: Name of the task.
            instructions: Strings of which one ends every user text, or starts it with a colon behind, and is
                split off it; none leaves texts whole, with an empty instruction. A record that has no user
                text (captions of an image, our own form without instruction) gets one of them, drawn by
                task, id and epoch.
            image_root: Folder that image paths are relative to; None for a text-only task.
            limit: Use only so many records from the start.
            ids_required: False gives a record without an id its position in the file as its id.

        Raises:
            ValueError: the file is missing, empty or broken; names file and place.
        """
        self.file = RecordFile(path)
        self._task = task
        self._instructions = instructions
        self._image_root = image_root
        self._ids_required = ids_required
        self._unread: set[str] = set()
        self._num_samples = len(self.file) if limit is None else min(limit, len(self.file))

    def __len__(self) -> int:
        return self._num_samples

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Return sample `index`; only the instruction of a record without one depends on the epoch.

        Raises:
            IndexError: `index` is negative or past the end.
            RecordError: the record is bad; names file, line or index, id, field, the value got and the fix.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.file.path} has samples 0 to {len(self) - 1}, got {index}")
        position = None if self._ids_required else index
        record = parse_record(self.file[index], place=self.file.where(index), position=position)
        if not self._unread.issuperset(record.unread):
            self._warn(record, index)
        question, instruction = self._split(record, index, epoch)
        return Sample(
            id=record.id,
            task=self._task,
            question=question,
            instruction=instruction,
            answers=record.answers,
            image=self._image(record, index),
            choices=record.choices,
            history=record.history,
            text=record.text,
        )

    def _warn(self, record: Record, index: int) -> None:
        """Name keys that are not read, each once a file."""
        new = [key for key in record.unread if key not in self._unread]
        self._unread.update(new)
        what = f"the key {new[0]!r} is" if len(new) == 1 else f"the keys {', '.join(map(repr, new))} are"
        warnings.warn(f"{self._place(record, index)}: {what} not read, here or further on", stacklevel=3)

    def where(self, index: int) -> str:
        """Name the file and the line or index of a sample."""
        return self.file.where(index)

    def digest(self) -> str:
        """Hash records, task, instructions and limit; not the pixels of the images, nor where files lie."""
        settings = json.dumps([self._task, self._instructions, len(self), self.file.digest()])
        return hashlib.blake2b(settings.encode("utf-8"), digest_size=16).hexdigest()

    def _place(self, record: Record, index: int) -> str:
        return f"{self.where(index)} (id {record.id!r})"

    def _image(self, record: Record, index: int) -> FileImage | None:
        if not record.image:
            return None
        place = self._place(record, index)
        if self._image_root is None:
            fix = f"task {self._task!r} has no 'image_root'; add it to the task in the YAML file"
            raise RecordError.of(f"got {record.image!r}", place=place, field="image", fix=fix)
        return FileImage(self._image_root, record.image, record=place)

    def _split(self, record: Record, index: int, epoch: int) -> tuple[str, str]:
        """Separate question and instruction."""
        if record.instruction is not None:
            if record.instruction in self._instructions:
                return record.question, record.instruction
            fix = "it must be one of the task's instructions"
            raise self._no_instruction(record, index, f"got {record.instruction!r}", fix, field="instruction")
        if not record.text:
            if not self._instructions:
                return record.question, ""
            drawn = mix("instruction", self._task, epoch, record.id) % len(self._instructions)
            return record.question, self._instructions[drawn]
        text = record.text.rstrip()
        starts = [known for known in self._instructions if text.lstrip().startswith(f"{known}:")]
        if starts:
            longest = max(starts, key=len)
            return text.lstrip().removeprefix(f"{longest}:").strip(), longest
        ends = [known for known in self._instructions if text.endswith(known)]
        if ends or not self._instructions:
            longest = max(ends, key=len, default="")
            return text.removesuffix(longest).strip(), longest
        shown = "..." + text[-60:] if len(text) > 60 else text
        fix = "it must end with an instruction of the task, or start with one and a colon"
        raise self._no_instruction(record, index, f"the user's last text: got {shown!r}", fix)

    def _no_instruction(
        self, record: Record, index: int, what: str, fix: str, field: str = ""
    ) -> RecordError:
        listed = "; ".join(map(repr, self._instructions)) or "none"
        fix += f" ({listed}); correct the record or 'instruction' in the YAML file"
        place, cause = self._place(record, index), "no instruction of the task"
        return RecordError.of(what, place=place, field=field, cause=cause, fix=fix)
