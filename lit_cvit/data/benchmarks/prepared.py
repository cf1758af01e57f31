"""What the published benchmarks share: tasks over prepared records or over the authors' instruction files.

Every task has three scorers. `standard` is what a careful reader would call right; `official` repeats the
rule of the authors' evaluation script, defects included; `paper` is the rule that the paper states where
its code does another thing. Where nothing else is known, `paper` is `official` and `official` is
`standard`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lit_cvit.data.benchmarks.prepared_files import Place, Places
from lit_cvit.data.benchmarks.settings import check_settings
from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.base import Split
from lit_cvit.data.records.source import RecordSource
from lit_cvit.data.records.templated import DrawnRecords, TemplatedSource
from lit_cvit.data.tasks import AnswerFormat, Counts, SampleSource, Task
from lit_cvit.metrics.scoring import scorer
from lit_cvit.utils.suggest import unknown

ScorerChoice = Literal["standard", "official", "paper"]
_NUM_HUMANS = 10
# Scorers that compare with ten human answers, which the authors' files often cut down to one.
_OF_HUMANS = ("vqa_soft", "official_vqav2")
_OF_ONE = "short_answer"
_NO_SPLIT = Split(rows=lambda raw: iter(()), raw=())


@dataclass(frozen=True)
class PreparedTask:
    """What makes a task of a published benchmark, its records aside.

    Attributes:
        answer_format: Form of the answers.
        standard: Name of the scorer of the main score.
        official: Name of the scorer that repeats the authors' script; empty: as `standard`.
        paper: Name of the scorer that the paper states; empty: as `official`.
        also: Names of further scorers.
        question: Asked of every record instead of its own question; None: the records' own.
        layout: The user's turn where it is not the question above the instruction.
        instructions: Its instruction strings.
        open_instructions: Those for its questions without options, where they differ.
        trained: Whether it has a training split.
        shots: Training samples of each class of a downstream task that is learned from a few; else None.
        drawn: Whether the samples are drawn down to the published numbers.
        published: Sizes of its splits as printed, where they are not those that its converter has.
    """

    answer_format: AnswerFormat
    standard: str
    official: str = ""
    paper: str = ""
    also: tuple[str, ...] = ()
    question: str | None = None
    layout: str = ""
    instructions: tuple[str, ...] = ()
    open_instructions: tuple[str, ...] = ()
    trained: bool = True
    shots: int | None = None
    drawn: bool = False
    published: Counts | None = None

    def scorer_name(self, choice: ScorerChoice) -> str:
        """The name of its scorer of one of the three kinds."""
        official = self.official or self.standard
        return {"standard": self.standard, "official": official, "paper": self.paper or official}[choice]


@dataclass(frozen=True)
class Reading:
    """How the records of a benchmark are read; the settings that all published benchmarks share.

    Attributes:
        benchmark: Name of the benchmark.
        root: Folder that `prepare` wrote.
        files: The authors' instruction files, by task.
        image_root: Folder of the images instead of the prepared one, for all tasks or by task.
        scorer: Which of a task's scorers gives its main score.
        limit: At most so many samples of each split, drawn once.
        seed: Seed of all draws: of instructions and of samples.
    """

    benchmark: str
    root: str | None
    files: Mapping[str, Mapping[str, Any]] | None
    image_root: str | Mapping[str, str] | None
    scorer: ScorerChoice
    limit: int | None
    seed: int

    def __post_init__(self) -> None:
        if self.scorer not in get_args(ScorerChoice):
            raise ValueError(f"{self.benchmark}: {unknown('scorer', self.scorer, get_args(ScorerChoice))}")
        limits = {} if self.limit is None else {"limit": self.limit}
        check_settings(self.benchmark, seed=self.seed, **limits)

    def tasks(self, specs: Mapping[str, PreparedTask], *, known: tuple[str, ...]) -> list[Task]:
        """Build tasks.

        Args:
            specs: The tasks by name, in their order.
            known: Names of all tasks of the benchmark.

        Raises:
            ValueError: a setting is not as it should be, or something is missing; names all that is.
        """
        needed = {name: ("train", "test") if spec.trained else ("test",) for name, spec in specs.items()}
        places = Places(self.benchmark, self.root, {} if self.files is None else self.files, self.image_root)
        found = places.find(needed, known)
        printed = printed_counts(self.benchmark)
        return [
            _TaskBuilder(self, name, spec, found[name], spec.published or printed[name]).build()
            for name, spec in specs.items()
        ]


def printed_counts(benchmark: str) -> dict[str, Counts]:
    """Sizes of the splits as the authors of a benchmark print them, by task; its converters have them."""
    found = {}
    for converter in converters_of(benchmark):
        splits = [converter.splits[benchmark].get(name, _NO_SPLIT) for name in ("train", "test")]
        train, test = (split.published or None for split in splits)
        found[converter.task] = Counts(train, test, units=(splits[0].unit, splits[1].unit))
    return found


@dataclass(frozen=True)
class _TaskBuilder:
    reading: Reading
    name: str
    spec: PreparedTask
    place: Place
    published: Counts

    def build(self) -> Task:
        spec, place = self.spec, self.place
        shown = (*spec.instructions, *spec.open_instructions)
        instructions = place.spelling(shown) if place.authors else shown
        test = self.source("test", instructions)
        name = self.scorer_name(test)
        return Task(
            name=self.name,
            answer_format=spec.answer_format,
            scorer=scorer(name),
            also=tuple(scorer(each) for each in spec.also if each != name),
            train=self.source("train", instructions) if spec.trained else None,
            test=test,
            instructions=instructions,
            few_shot=spec.shots is not None,
            published=self.published if self.reading.limit is None else Counts(),
        )

    def source(self, split: str, instructions: tuple[str, ...]) -> SampleSource:
        if self.place.authors:
            return self.drawn(self.place.records(split, instructions), split)
        spec = self.spec
        records = self.drawn(self.place.records(split), split)
        return TemplatedSource(
            records,
            self.name,
            split,
            self.reading.seed,
            spec.instructions,
            spec.question,
            spec.layout,
            spec.open_instructions,
        )

    def drawn(self, records: RecordSource, split: str) -> RecordSource | DrawnRecords:
        published = self.published.train if split == "train" else self.published.test
        limits = (self.reading.limit, published if self.spec.drawn else None)
        limit = min((each for each in limits if each is not None), default=None)
        shots = self.spec.shots if split == "train" else None
        if shots is None and limit is None:
            return records
        return DrawnRecords(records, self.reading.seed, limit, shots)

    def scorer_name(self, test: SampleSource) -> str:
        name = self.spec.scorer_name(self.reading.scorer)
        if name not in _OF_HUMANS or len(test.sample(0).answers) == _NUM_HUMANS:
            return name
        warnings.warn(
            f"{self.reading.benchmark}: {self.name} is scored by {_OF_ONE!r}: its records have "
            f"{len(test.sample(0).answers)} answers, and {name!r} compares with {_NUM_HUMANS}",
            stacklevel=2,
        )
        return _OF_ONE


def chosen_tasks(
    benchmark: str, setting: str, names: Collection[str] | None, known: tuple[str, ...]
) -> tuple[str, ...]:
    """The tasks that a setting names, in the benchmark's order; all of them where it is None.

    Raises:
        ValueError: it is no list, or names a task that is not among the known ones.
    """
    if names is None:
        return known
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{benchmark}: {setting} must be a list of task names, got {names!r}")
    for name in names:
        if name not in known:
            raise ValueError(f"{benchmark}: {setting}: {unknown('task', name, known)}")
    return tuple(name for name in known if name in names)
