"""The check before training: every record and every image of a benchmark, with problems in words.

It works on any benchmark; what lies in files is checked for its place and its presence, and decoded on
request.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable

from lit_cvit.data.errors import RecordError
from lit_cvit.data.images import FileImage
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.records.templated import DrawnRecords, TemplatedSource
from lit_cvit.data.tasks import (
    AnswerFormat,
    Benchmark,
    Encoder,
    ImageSource,
    Sample,
    SampleError,
    SampleSource,
    Task,
)
from lit_cvit.data.validation.blind import AlikeReferences, BoxUnits
from lit_cvit.data.validation.images import ImageLookup, decode_images
from lit_cvit.data.validation.report import (
    BenchmarkError,
    Problem,
    ProblemKind,
    TaskReport,
    require_clean,
)

__all__ = [
    "BenchmarkError",
    "OnProgress",
    "Problem",
    "ProblemKind",
    "TaskReport",
    "check_benchmark",
    "check_task",
    "require_clean",
]

OnProgress = Callable[[str, int, int], None]
"""Called with what is being read (`ScienceQA train records`), how many are done, and how many there are."""

_SPLITS = ("train", "test")
_STEP = 1000
# Of the test samples; published splits that were drawn apart share a few, by chance or with other ids.
_TOLERATED_SHARE = 0.5


def check_task(
    task: Task,
    *,
    decode_images: bool = False,
    workers: int | None = None,
    on_problem: Callable[[Problem], None] | None = None,
    on_progress: OnProgress | None = None,
    encoder: Encoder | None = None,
    list_all: bool = False,
) -> TaskReport:
    """Go through both splits of a task.

    Args:
        task: The task.
        decode_images: Open every image too, also those that are drawn (slow); otherwise files are looked up.
        workers: Number of processes that open images; None: one for each CPU.
        on_problem: Called with every problem as it is found, beyond the listed ones too.
        on_progress: Called now and then; see `OnProgress`.
        encoder: That of the backbone to come, which refuses what it cannot take; None: any sample may do.
        list_all: List every problem, not the first of those that are alike.
    """
    check = _TaskCheck(task, decode_images, on_problem, on_progress, encoder)
    check.report.list_all = list_all
    for number, source in enumerate(check.sources):
        if source is not None:
            check.split(number, source)
    check.whole_split()
    if task.published is not None:
        check.tolerate()
    if decode_images:
        check.decode(workers)
    return check.report


def check_benchmark(
    benchmark: Benchmark,
    *,
    decode_images: bool = False,
    workers: int | None = None,
    on_problem: Callable[[Problem], None] | None = None,
    on_progress: OnProgress | None = None,
    encoder: Encoder | None = None,
    list_all: bool = False,
) -> list[TaskReport]:
    """Check every task, stream first; see `check_task`."""
    return [
        check_task(
            task,
            decode_images=decode_images,
            workers=workers,
            on_problem=on_problem,
            on_progress=on_progress,
            encoder=encoder,
            list_all=list_all,
        )
        for task in (*benchmark.stream, *benchmark.downstream)
    ]


class _TaskCheck:
    """One pass over a task; keeps hashes and positions, not the samples."""

    def __init__(
        self,
        task: Task,
        decode: bool,
        on_problem: Callable[[Problem], None] | None,
        on_progress: OnProgress | None,
        encoder: Encoder | None,
    ) -> None:
        self.task = task
        self.encoder = encoder
        self.sources = (task.train, task.test)
        self.on_problem = on_problem
        self.on_progress = on_progress
        num_train, num_test = len(task.train) if task.train else 0, len(task.test)
        self.report = TaskReport(task.name, num_train, num_test)
        if task.published is not None:
            self.report.published = task.published.difference(num_train, num_test)
        self.lookup = ImageLookup()
        self.alike = AlikeReferences()
        self.units = BoxUnits()
        self.trained_on: dict[bytes, int] = {}
        self.found: set[bytes] = set()
        # Of each image that is to be opened: split and index of every sample that shows it, in a row.
        self.uses: dict[bytes, array[int]] | None = {} if decode else None

    def add(self, kind: ProblemKind, number: int, message: str, cause: str = "") -> None:
        problem = Problem(kind, self.task.name, _SPLITS[number], message, cause)
        self.report.add(problem)
        if self.on_problem is not None:
            self.on_problem(problem)

    def tolerate(self) -> None:
        """Take published splits as they are, unless most of what is tested was trained on."""
        shared, num_test = self.report.counts[ProblemKind.OVERLAP], self.report.num_test
        if shared > _TOLERATED_SHARE * num_test:
            message = (
                f"{shared} of {num_test} test samples, more than half, have image and text of a training "
                "sample; is one file in the place of the other?"
            )
            self.add(ProblemKind.TRAINED_TEST, 1, message)
        self.report.tolerated = frozenset((ProblemKind.OVERLAP,))

    def progress(self, what: str, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(f"{self.task.name} {what}", done, total)

    def split(self, number: int, source: SampleSource) -> None:
        if not len(source):
            self.add(ProblemKind.EMPTY_SPLIT, number, "it has no samples; at least one is needed")
        what = f"{_SPLITS[number]} records"
        first_with_id: dict[str, int] = {}
        for index in range(len(source)):
            if index % _STEP == 0:
                self.progress(what, index, len(source))
            where = _place(source, index)
            try:
                sample = source.sample(index)
            except ValueError as error:
                self.add(ProblemKind.RECORD, number, str(error), _cause(error))
                continue
            place = f"{where} (id {sample.id!r})"
            if not sample.user_text.strip():
                cause = "neither question nor instruction"
                message = f"{place}: got {cause}; give the task an instruction"
                self.add(ProblemKind.RECORD, number, message, cause)
            fits = self.answers(sample, number, place)
            key = "" if sample.image is None else _image_key(sample.image)
            if sample.image is not None:
                fits &= self.image(sample.image, _hash(key), number, index, place)
            if fits and self.encoder is not None:
                self.encoding(self.encoder, sample, number, place)
            # Predictions are kept by id; nothing is kept by that of a training sample.
            if _SPLITS[number] == "test" and (first := first_with_id.setdefault(sample.id, index)) != index:
                message = f"{place}: the id is already that of {_place(source, first)}; make ids unique"
                self.add(ProblemKind.DUPLICATE_ID, number, message)
            self.overlap(sample, key, number, place, index)
        self.progress(what, len(source), len(source))

    def answers(self, sample: Sample, number: int, place: str) -> bool:
        answers, which = sample.answers, "at least one answer"
        if _SPLITS[number] == "train":
            answers, which = sample.answers[:1], "the first answer is what is learned, it"
        if not any(answer.strip() for answer in answers):
            message = f"{place}: got {sample.answers!r}; {which} must not be blank"
            self.add(ProblemKind.ANSWER, number, message)
            return False
        if self.task.answer_format is AnswerFormat.BOX:
            self.units.add(_SPLITS[number], sample)
        if _SPLITS[number] == "test":
            self.references(sample, number, place)
        return True

    def references(self, sample: Sample, number: int, place: str) -> None:
        """Otherwise a stage would be trained before its scores fail."""
        for scorer in (self.task.scorer, *self.task.also):
            try:
                scorer.check(sample)
            except ValueError as error:
                named = f"scorer {scorer.name!r}"
                self.add(ProblemKind.REFERENCE, number, f"{place}: {named}: {error}", named)
        self.alike.add(sample)

    def whole_split(self) -> None:
        """Name what is wrong with a test split as a whole; not where its references are wrong themselves."""
        differ = self.units.differ() or self.units.scales_differ()
        for number, problem in enumerate((self.units.turned(), differ)):
            if problem:
                self.add(ProblemKind.REFERENCE, number, problem, "convention of boxes")
        if not self.report.counts[ProblemKind.REFERENCE]:
            found = map(self.alike.warning, (self.task.scorer, *self.task.also))
            self.report.warnings += filter(None, found)

    def encoding(self, encoder: Encoder, sample: Sample, number: int, place: str) -> None:
        """Otherwise hours would be trained before the sample's batch is drawn."""
        try:
            encoder.check(sample, with_answers=_SPLITS[number] == "train")
        except SampleError as error:
            self.add(ProblemKind.UNFIT, number, f"{place}: it {error.words}", error.cause)
        except ValueError as error:
            self.bad_image(error, number, place)

    def image(self, image: ImageSource, key: bytes, number: int, index: int, place: str) -> bool:
        self.report.num_images += 1
        if key not in self.found and isinstance(image, FileImage):
            try:
                self.lookup.find(image)
            except ValueError as error:
                self.bad_image(error, number, place)
                return False
        self.found.add(key)
        if self.uses is not None:
            self.uses.setdefault(key, array("q")).extend((number, index))
        return True

    def bad_image(self, error: ValueError, number: int, place: str) -> None:
        # Its own place may be that of another record, which shows the same image; but a source that does not
        # name its records has no better one.
        placed = isinstance(self.sources[number], _NAMING)
        words = (error.words if placed and isinstance(error, RecordError) else "") or str(error)
        self.add(ProblemKind.IMAGE, number, f"{place}: {words}", _cause(error))

    def decode(self, workers: int | None) -> None:
        assert self.uses is not None, "only asked for with images to open"
        sources = [self.task.test if source is None else source for source in self.sources]
        firsts = [(uses[0], uses[1]) for uses in self.uses.values()]
        found = decode_images(
            sources,
            firsts,
            workers=workers,
            on_progress=lambda done: self.progress("images", done, len(firsts)),
        )
        for error, uses in zip(found, self.uses.values(), strict=True):
            if error is not None:
                for number, index in zip(uses[::2], uses[1::2], strict=True):
                    self.bad_image(error, number, self.named(number, index))

    def named(self, number: int, index: int) -> str:
        source = self.sources[number]
        assert source is not None, "it had samples"
        return f"{_place(source, index)} (id {source.sample(index).id!r})"

    def overlap(self, sample: Sample, image: str, number: int, place: str, index: int) -> None:
        key = _hash(repr((image, sample.user_text, sample.choices, sample.history)))
        if _SPLITS[number] == "train":
            self.trained_on.setdefault(key, index)
        elif self.task.train is not None and key in self.trained_on:
            other = _place(self.task.train, self.trained_on[key])
            message = f"{place}: same image and text as {other} of the training split; remove one of them"
            self.add(ProblemKind.OVERLAP, number, message)


# Sources that say where a record stands.
_NAMING = (RecordSource, TemplatedSource, DrawnRecords)


def _place(source: SampleSource, index: int) -> str:
    if isinstance(source, _NAMING):
        return source.where(index)
    return f"sample {index}"


def _cause(error: ValueError) -> str:
    return error.cause if isinstance(error, RecordError) else ""


def _image_key(image: ImageSource) -> str:
    # Two spellings of one path are one image; other sources are plain values, which their repr tells apart.
    if isinstance(image, FileImage):
        return os.path.normpath(os.path.join(image.root, image.path))
    return repr(image)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
