"""The check before training: every record and every image of a benchmark, with problems in words.

It works on any benchmark; what lies in files is checked for its place and its presence, and decoded on
request.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from lit_cvit.data.images import FileImage
from lit_cvit.data.record_source import RecordSource
from lit_cvit.data.tasks import Benchmark, ImageSource, Sample, SampleSource, Task

MAX_LISTED = 20
"""Problems that a report lists; the rest is counted."""


class BenchmarkError(ValueError):
    """A benchmark that cannot be trained on as it is; the message lists its problems."""


class ProblemKind(enum.StrEnum):
    """What can be wrong with a sample."""

    RECORD = "bad record"
    IMAGE = "bad image"
    ANSWER = "empty answer"
    DUPLICATE_ID = "duplicate id"
    OVERLAP = "train/test overlap"
    EMPTY_SPLIT = "empty split"


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: What is wrong.
        task: Name of the task.
        split: `train` or `test`.
        message: Names file, record and fix.
    """

    kind: ProblemKind
    task: str
    split: str
    message: str

    def __str__(self) -> str:
        return f"{self.task} {self.split}: {self.kind}: {self.message}"


@dataclass
class TaskReport:
    """What was found in a task.

    Attributes:
        task: Name of the task.
        num_train: Samples of the training split.
        num_test: Samples of the test split.
        num_images: Samples with an image, over both splits.
        counts: Number of problems of each kind that occurred.
        problems: The first problems found.
    """

    task: str
    num_train: int
    num_test: int
    num_images: int = 0
    counts: Counter[ProblemKind] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def num_problems(self) -> int:
        """Number of problems, listed or not."""
        return self.counts.total()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def lines(self) -> list[str]:
        """The report as lines of text: counts first, then the listed problems."""
        found = ", ".join(f"{count} {kind}" for kind, count in self.counts.items()) or "no problems"
        sizes = f"{self.num_train} train, {self.num_test} test, {self.num_images} with image"
        more = self.num_problems - len(self.problems)
        tail = [f"  ... and {more} more"] if more else []
        return [f"{self.task}: {sizes}: {found}", *(f"  {problem}" for problem in self.problems), *tail]


def check_task(
    task: Task, *, decode_images: bool = False, on_problem: Callable[[Problem], None] | None = None
) -> TaskReport:
    """Go through both splits of a task.

    Args:
        task: The task.
        decode_images: Open every image too, also those that are drawn (slow); otherwise files are looked up.
        on_problem: Called with every problem as it is found, beyond the listed ones too.
    """
    return _TaskCheck(task, decode_images, on_problem).run()


def check_benchmark(
    benchmark: Benchmark,
    *,
    decode_images: bool = False,
    on_problem: Callable[[Problem], None] | None = None,
) -> list[TaskReport]:
    """Check every task, stream first; see `check_task`."""
    tasks = (*benchmark.stream, *benchmark.downstream)
    return [check_task(task, decode_images=decode_images, on_problem=on_problem) for task in tasks]


def require_clean(reports: Sequence[TaskReport], *, allow: Collection[ProblemKind] = ()) -> None:
    """Raise if any report has a problem of a kind that is not allowed.

    Raises:
        BenchmarkError: lists the reports with such problems.
    """
    bad = [report for report in reports if set(report.counts) - set(allow)]
    if bad:
        lines = [line for report in bad for line in report.lines()]
        num_problems = sum(report.num_problems for report in bad)
        raise BenchmarkError("\n".join([f"{num_problems} problems in {len(bad)} task(s)", *lines]))


class _TaskCheck:
    """One pass over a task; keeps a hash per sample, not the samples."""

    def __init__(self, task: Task, decode: bool, on_problem: Callable[[Problem], None] | None) -> None:
        self.task = task
        self.decode = decode
        self.on_problem = on_problem
        self.report = TaskReport(task.name, len(task.train) if task.train else 0, len(task.test))
        self.trained_on: dict[bytes, int] = {}
        self.good_images: set[bytes] = set()

    def run(self) -> TaskReport:
        if self.task.train is not None:
            self.split("train", self.task.train)
        self.split("test", self.task.test)
        return self.report

    def tell(self, kind: ProblemKind, split: str, message: str) -> None:
        problem = Problem(kind, self.task.name, split, message)
        self.report.counts[kind] += 1
        if len(self.report.problems) < MAX_LISTED:
            self.report.problems.append(problem)
        if self.on_problem is not None:
            self.on_problem(problem)

    def split(self, split: str, source: SampleSource) -> None:
        if not len(source):
            self.tell(ProblemKind.EMPTY_SPLIT, split, "it has no samples; at least one is needed")
        first_with_id: dict[str, int] = {}
        for index in range(len(source)):
            try:
                sample = source.sample(index)
            except ValueError as error:
                self.tell(ProblemKind.RECORD, split, str(error))
                continue
            place = f"{_place(source, index)} (id {sample.id!r})"
            self.answers(sample, split, place)
            self.image(sample, split, place)
            if (first := first_with_id.setdefault(sample.id, index)) != index:
                message = f"{place}: the id is already that of {_place(source, first)}; make ids unique"
                self.tell(ProblemKind.DUPLICATE_ID, split, message)
            self.overlap(sample, split, place, index)

    def answers(self, sample: Sample, split: str, place: str) -> None:
        answers, which = sample.answers, "at least one answer"
        if split == "train":
            answers, which = sample.answers[:1], "the first answer is what is learned, it"
        if not any(answer.strip() for answer in answers):
            message = f"{place}: got {sample.answers!r}; {which} must not be blank"
            self.tell(ProblemKind.ANSWER, split, message)

    def image(self, sample: Sample, split: str, place: str) -> None:
        if sample.image is None:
            return
        self.report.num_images += 1
        key = _hash(_image_key(sample.image))
        if key in self.good_images:
            return
        try:
            if self.decode:
                sample.image.open()
            elif isinstance(sample.image, FileImage):
                sample.image.locate()
        except ValueError as error:
            message = str(error)
            self.tell(
                ProblemKind.IMAGE, split, message if message.startswith(place) else f"{place}: {message}"
            )
        else:
            self.good_images.add(key)

    def overlap(self, sample: Sample, split: str, place: str, index: int) -> None:
        key = _content(sample)
        if split == "train":
            self.trained_on.setdefault(key, index)
        elif self.task.train is not None and key in self.trained_on:
            other = _place(self.task.train, self.trained_on[key])
            message = f"{place}: same image and text as {other} of the training split; remove one of them"
            self.tell(ProblemKind.OVERLAP, split, message)


def _place(source: SampleSource, index: int) -> str:
    return source.where(index) if isinstance(source, RecordSource) else f"sample {index}"


def _content(sample: Sample) -> bytes:
    image = "" if sample.image is None else _image_key(sample.image)
    return _hash(repr((image, sample.user_text, sample.choices, sample.history)))


def _image_key(image: ImageSource) -> str:
    # Two spellings of one path are one image; other sources are plain values, which their repr tells apart.
    return os.path.normpath(image.root / image.path) if isinstance(image, FileImage) else repr(image)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
