"""What the readers of the general benchmarks share: questions that are only asked, never learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_cvit.data.errors import RecordError
from lit_cvit.data.tasks import AnswerFormat, ImageSource, Sample, Task
from lit_cvit.metrics.general import Summary
from lit_cvit.metrics.scoring import scorer

SHORT_INSTRUCTION = "Answer the question using a single word or phrase."
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Question:
    """One question as its owners' file has it.

    Attributes:
        id: Unique in its benchmark; its parts, between slashes, name the groups of the metrics.
        text: The question, with its options where it has some.
        answer: The right answer.
        image: The image.
        choices: Options in letter order.
    """

    id: str
    text: str
    answer: str
    image: ImageSource
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A general benchmark: where its files lie, how they are read, asked and scored.

    Attributes:
        name: Name of the task.
        answer_format: Form of the answers.
        scorer: Name of the scorer of one answer.
        instruction: What ends every prompt, on its own line.
        summary: The benchmark's own figures, from the rows of all samples.
        missing: The root folder to what is not there, one text for each file or folder.
        read: The root folder and a limit to the questions; at most so many of each subset, category or type.
    """

    name: str
    answer_format: AnswerFormat
    scorer: str
    instruction: str
    summary: Summary
    missing: Callable[[Path], list[str]]
    read: Callable[[Path, int | None], Iterator[Question]]

    def task(self, root: Path, limit: int | None) -> Task:
        """Read the benchmark as a task that is only tested.

        Raises:
            ValueError: a record is bad, or there is none; names file, record, field, the value got, the fix.
        """
        samples = tuple(self._sample(question) for question in self.read(root, limit))
        if not samples:
            raise ValueError(f"{self.name}: its files under {root} hold no questions; fetch them again")
        return Task(
            name=self.name,
            answer_format=self.answer_format,
            scorer=scorer(self.scorer),
            test=AskedSamples(samples),
            instructions=(self.instruction,),
            summary=self.summary,
        )

    def _sample(self, question: Question) -> Sample:
        return Sample(
            id=question.id,
            task=self.name,
            question=question.text,
            instruction=self.instruction,
            answers=(question.answer,),
            image=question.image,
            choices=question.choices,
        )


@dataclass(frozen=True)
class AskedSamples:
    """Samples in memory, their images outside of it; a `SampleSource`. Picklable.

    Attributes:
        samples: The samples; the largest of these benchmarks has some 14,000.
    """

    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Return sample `index`; every epoch shows the same.

        Raises:
            IndexError: `index` is past the end.
        """
        return self.samples[index]

    def digest(self) -> str:
        """Hash ids, texts, answers and options; not the pixels, nor where the files lie."""
        rows = [(s.id, s.user_text, s.answers, s.choices) for s in self.samples]
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


def lacking(path: Path, what: str) -> list[str]:
    """Say that a file or folder is missing, if it is."""
    return [] if path.exists() else [f"{path}: {what}"]


def text_of(row: Mapping[str, object], field: str, place: str) -> str:
    """A field that must hold text or a number, without outer white space.

    Raises:
        RecordError: it holds something else, is blank or absent; names place, field, the value got, the fix.
    """
    value = row.get(field)
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    if not text:
        shown = repr(value) if field in row else "nothing"
        raise RecordError.of(
            f"got {shown}", place=place, field=field, fix="it must be text that is not blank"
        )
    return text


def one_of(value: str, allowed: tuple[str, ...], field: str, place: str) -> str:
    """The value, if it is allowed.

    Raises:
        RecordError: it is not; names place, field, the value got and what is allowed.
    """
    if value not in allowed:
        fix = f"allowed are {', '.join(allowed)}"
        raise RecordError.of(f"got {value!r}", place=place, field=field, fix=fix)
    return value


def with_options(question: str, choices: tuple[str, ...]) -> str:
    """The question with its options below it, "A. ..." on a line each, as LLaVA's evaluation words them."""
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=False)]
    return "\n".join((question, *lines))
