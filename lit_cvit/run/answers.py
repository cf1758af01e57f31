"""The answers to a split in progress: a line per round of batches, so that a resume goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lit_cvit.run.files import read_jsonl
from lit_cvit.run.writer import Writer

_ANSWERS = "answers"


class AnswerJournal:
    """Keeps every round's answers (one batch on each rank) until the stage is scored.

    Args:
        writer: The run's writer.
        path: The file.
    """

    def __init__(self, writer: Writer, path: Path) -> None:
        self.writer = writer
        self.path = path

    def rounds(self) -> list[dict[int, str]]:
        """The answers of the finished rounds by sample, oldest first; one torn by a crash does not count."""
        return [{int(index): text for index, text in row[_ANSWERS].items()} for row in read_jsonl(self.path)]

    def add(self, answers: Mapping[int, str]) -> None:
        """Keep one more round."""
        row = {_ANSWERS: {str(index): text for index, text in sorted(answers.items())}}
        self.writer.append_line(self.path, row)

    def clear(self) -> None:
        """Forget all rounds."""
        self.writer.remove(self.path)
