"""What flows through a stream: tasks, samples and batches.

These are plain, picklable values. Nothing here depends on a method, a backbone or a trainer.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from lit_cvit.data.sampling import Place
from lit_cvit.metrics.general import Summary
from lit_cvit.metrics.scoring import Scorer
from lit_cvit.utils.wording import printed


class AnswerFormat(enum.StrEnum):
    """The form that a task's instruction asks for; it decides the MIF rule and the decoding budget."""

    LETTER = "letter"
    SHORT = "short"
    CAPTION = "caption"
    BOX = "box"

    @property
    def max_new_tokens(self) -> int:
        """Default decoding budget: short answers must not decode hundreds of tokens."""
        budgets = {
            AnswerFormat.LETTER: 8,
            AnswerFormat.SHORT: 24,
            AnswerFormat.CAPTION: 96,
            AnswerFormat.BOX: 48,
        }
        return budgets[self]


class ImageSource(Protocol):
    """Where an image comes from; opened only when a batch is built, in the worker that builds it."""

    def open(self) -> Image.Image:
        """Return the RGB image.

        Raises:
            ValueError: the image is missing or unreadable; names the file and the record.
        """
        ...


@runtime_checkable
class SizedImage(ImageSource, Protocol):
    """An image source that can say its size without decoding; hashable, and equal images are of one size."""

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, those of the image that `open` returns.

        Raises:
            ValueError: the image is missing or its header is unreadable; names the file and the record.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One question with its reference answers.

    Attributes:
        id: Unique within a test split, whose predictions are kept by it; training samples may share one.
        task: Name of the task it belongs to.
        question: Question text without the instruction; may be empty.
        instruction: Instruction text, kept apart from the question because several methods route by it.
        answers: Reference answers; the first is the training target.
        image: Where the image comes from, or None for a text-only sample.
        choices: Options of a multiple-choice question, in letter order.
        history: Earlier turns (user text, answer) of the same conversation.
        text: The user's turn as the model sees it; empty means question and instruction on two lines.
    """

    id: str
    task: str
    question: str
    instruction: str
    answers: tuple[str, ...]
    image: ImageSource | None = None
    choices: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    text: str = ""

    @property
    def user_text(self) -> str:
        """The user's turn: the given text, or question and instruction joined by a line break."""
        return self.text or "\n".join(part for part in (self.question, self.instruction) if part)


class SampleSource(Protocol):
    """A split of a task: random access, so that 600,000 rows need not be 600,000 objects."""

    def __len__(self) -> int: ...

    def sample(self, index: int, epoch: int = 0) -> Sample:
        """Return sample `index`; templates drawn per epoch are a pure function of (seed, epoch, id).

        Raises:
            ValueError: the record is bad; names file, line or index, field and the fix.
        """
        ...

    def digest(self) -> str:
        """A digest of everything that decides the samples, for caches and for resume checks."""
        ...


class SampleError(ValueError):
    """A sample that a backbone cannot take.

    Attributes:
        cause: Why, in words that are the same for all samples of one kind.
        words: What goes on after "the sample" or "it": the values got and the fix.
    """

    cause: str = ""
    words: str = ""

    @classmethod
    def of(cls, sample: Sample, cause: str, words: str) -> SampleError:
        """The error of a sample, which its message names."""
        # Built from its message alone, so that it pickles: loader workers send their errors with all fields.
        error = cls(f"sample {sample.id!r} of task {sample.task!r} {words}")
        error.cause, error.words = cause, words
        return error


@dataclass(frozen=True)
class Counts:
    """Published numbers of samples.

    Attributes:
        train: Of the training split; None where there is none, or none is published.
        test: Of the test split; None where none is published.
        units: What the two numbers are printed in: 1000 for "12k", which 12726 is.
    """

    train: int | None = None
    test: int | None = None
    units: tuple[int, int] = (1, 1)

    def difference(self, train: int, test: int) -> str:
        """The published sizes that are not those found, in words; empty where all agree."""
        pairs = (("train", self.train, train), ("test", self.test, test))
        parts = [
            f"{printed(published, unit)} {split}"
            for (split, published, found), unit in zip(pairs, self.units, strict=True)
            if published is not None and abs(found - published) >= unit
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Task:
    """A data set with its instructions, answer format and scorers.

    Attributes:
        name: Canonical task name, for example `ScienceQA`.
        answer_format: Form of the answers.
        scorer: Scorer of the main score, in percent when averaged (captions: CIDEr x 100).
        also: Further scorers, reported beside the main one and never averaged with it.
        train: Training split, or None for a task that is only tested.
        test: Test split.
        instructions: Every instruction string the task may show, in a fixed order.
        max_new_tokens: Decoding budget of the task.
        few_shot: True for a downstream task that is learned from a few samples, not tested zero-shot.
        published: Sizes of the splits behind published numbers, for a task of a published benchmark. What
            such a task has in training and test is reported by a check; it is refused where it is more than
            half of the test samples.
        summary: Prediction rows of the test split to further figures of it, reported like `also`.
    """

    name: str
    answer_format: AnswerFormat
    scorer: Scorer
    test: SampleSource
    train: SampleSource | None = None
    also: tuple[Scorer, ...] = ()
    instructions: tuple[str, ...] = ()
    max_new_tokens: int = 0
    few_shot: bool = False
    published: Counts | None = None
    summary: Summary | None = None

    @property
    def is_caption(self) -> bool:
        """Whether the score is a caption metric, which tables also leave out of averages."""
        return self.answer_format is AnswerFormat.CAPTION

    @property
    def decoding_budget(self) -> int:
        """The task's own `max_new_tokens`, or the default of its answer format."""
        return self.max_new_tokens or self.answer_format.max_new_tokens


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks: an ordered upstream stream plus held-out downstream tasks.

    Attributes:
        name: Name of the benchmark.
        stream: Tasks to learn, in order.
        downstream: Tasks that are tested without being learned.
        miniature: Whether it stands for a larger benchmark; results on it are labelled so.
        version: Of a benchmark whose samples are drawn: raised when the same settings draw others. Else 0.
    """

    name: str
    stream: tuple[Task, ...]
    downstream: tuple[Task, ...] = ()
    miniature: bool = False
    version: int = 0

    def task(self, name: str) -> Task:
        """Look up a task of the benchmark by name.

        Raises:
            ValueError: no task has that name; lists the known ones.
        """
        for task in (*self.stream, *self.downstream):
            if task.name == name:
                return task
        known = ", ".join(t.name for t in (*self.stream, *self.downstream))
        raise ValueError(f"benchmark {self.name!r} has no task {name!r}; known: {known}")


@dataclass
class Batch:
    """What a backbone and a method receive. S samples, L positions (padded), I image rows.

    Attributes:
        inputs: Keyword tensors for the backbone's model: input_ids (S, L), attention_mask (S, L) and, if
            any sample has an image, pixel_values: (I, ...), or all patches of all images (P, ...), and what
            else the family's model takes for images.
        answer_mask: (S, L) True at answer tokens, which the loss counts; None for a batch to generate from.
        prompt_mask: (S, L) True at prompt tokens, the image's included: neither answer nor padding.
        image_rows: (I,) sample index of each image; empty for a text-only batch.
        samples: The samples themselves.
        indices: Position of each sample in its split; -1 where there is none.
        step_tokens: Answer tokens of the whole optimizer step that this batch is a part of, over all
            micro-batches and ranks; 0 for a batch that is not of a stage's training data.
        step_samples: Samples of that step, likewise.
        place: Where it stands in its stage; None for a batch that is not of a stage's training data.
    """

    inputs: dict[str, Tensor]
    answer_mask: Tensor | None
    prompt_mask: Tensor
    image_rows: Tensor
    samples: Sequence[Sample]
    indices: Sequence[int] = field(default_factory=list)
    step_tokens: int = 0
    step_samples: int = 0
    place: Place | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def map_tensors(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor passed through `move` (device transfer, pinning)."""
        return dataclasses.replace(
            self,
            inputs={name: move(value) for name, value in self.inputs.items()},
            answer_mask=None if self.answer_mask is None else move(self.answer_mask),
            prompt_mask=move(self.prompt_mask),
            image_rows=move(self.image_rows),
        )

    def to(self, device: object) -> Batch:
        """Move every tensor to `device`."""
        return self.map_tensors(lambda tensor: tensor.to(device))  # type: ignore[call-overload]

    def pin_memory(self) -> Batch:
        """Pin every tensor; called by the data loader."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())


class Encoder(Protocol):
    """The part of a backbone that turns samples into batches; it must pickle."""

    def encode(self, samples: Sequence[Sample], *, with_answers: bool, indices: Sequence[int] = ()) -> Batch:
        """Build a batch."""
        ...

    def check(self, sample: Sample, *, with_answers: bool) -> None:
        """Refuse a sample that `encode` would refuse, before it does; cheap.

        Raises:
            SampleError: it has too many tokens, or an answer that cannot be learned.
            ValueError: its image decides how many they are, and is unreadable.
        """
        ...

    def num_answer_tokens(self, sample: Sample) -> int:
        """Tokens of a sample that the loss counts; opens no image."""
        ...

    def answer_tokens(self, samples: Sequence[Sample]) -> list[int]:
        """`num_answer_tokens` of each sample, fast."""
        ...

    @property
    def answers_vary(self) -> bool:
        """Whether the number may depend on the text before an answer, so on the instruction of an epoch."""
        ...

    def prompt_length(self, sample: Sample) -> int:
        """Tokens of a sample's prompt; decodes no image file."""
        ...

    def prompt_lengths(self, samples: Iterable[Sample]) -> list[int]:
        """`prompt_length` of every sample, for whole splits: cheaper by far, and samples are not held."""
        ...

    def digest(self) -> str:
        """A digest of everything that decides how many tokens a sample has, equal in every process."""
        ...
