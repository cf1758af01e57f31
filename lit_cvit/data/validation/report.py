"""What a check found: problems, counted and grouped."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lit_cvit.utils.wording import counted

MAX_LISTED = 20
"""Problems of a task that a report lists; the rest is counted."""

MAX_ALIKE = 3
"""Problems of one split, kind and field (or cause) that a report lists; the rest is counted."""


class BenchmarkError(ValueError):
    """A benchmark that cannot be trained on as it is; the message lists its problems."""


class ProblemKind(enum.StrEnum):
    """What can be wrong with a sample."""

    RECORD = "bad record"
    IMAGE = "bad image"
    ANSWER = "empty answer"
    REFERENCE = "unscorable answer"
    DUPLICATE_ID = "duplicate id"
    OVERLAP = "train/test overlap"
    TRAINED_TEST = "trained test split"
    UNFIT = "unfit record"
    EMPTY_SPLIT = "empty split"


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: What is wrong.
        task: Name of the task.
        split: `train` or `test`.
        message: Names file, record and fix.
        cause: What is wrong, without the values: that of a `RecordError`, a scorer, what a backbone cannot
            take. Problems of one cause are alike.
    """

    kind: ProblemKind
    task: str
    split: str
    message: str
    cause: str = field(default="", compare=False)

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
        published: The published sizes, in words, where those of the task differ; no problem, as a part of a
            data set may be what is wanted.
        tolerated: Kinds of problems that are reported but do not prevent training.
        counts: Number of problems of each kind that occurred.
        problems: The problems that are listed: the first of each group of problems that are alike.
        alike: Number of problems of each group, listed or not; the group's name tells split, kind and cause.
        warnings: What is no problem of a sample, and should be read.
        list_all: Whether every problem is listed.
    """

    task: str
    num_train: int
    num_test: int
    num_images: int = 0
    published: str = ""
    tolerated: frozenset[ProblemKind] = frozenset()
    counts: Counter[ProblemKind] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    alike: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    list_all: bool = False

    def add(self, problem: Problem) -> None:
        """Count a problem, and list it if all or only few are listed that are like it."""
        self.counts[problem.kind] += 1
        group = _group(problem)
        self.alike[group] += 1
        if self.list_all or (self.alike[group] <= MAX_ALIKE and len(self.problems) < MAX_LISTED):
            self.problems.append(problem)

    @property
    def num_problems(self) -> int:
        """Number of problems, listed or not."""
        return self.counts.total()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def lines(self) -> list[str]:
        """The report as lines of text: counts, the listed problems, and how many more are like them."""
        found = ", ".join(counted(count, str(kind)) for kind, count in self.counts.items()) or "no problems"
        sizes = f"{self.num_train} train, {self.num_test} test, {self.num_images} with image"
        more = self.alike - Counter(map(_group, self.problems))
        rest = [f"  ... and {count} more: {self.task} {group}" for group, count in more.items()]
        if len(rest) > MAX_LISTED:
            left = sum(list(more.values())[MAX_LISTED:])
            rest[MAX_LISTED:] = [f"  ... and {left} more of {len(rest) - MAX_LISTED} other kinds"]
        first = [f"{self.task}: {sizes}: {found}"]
        if self.published:
            first.append(f"  published sizes differ: {self.published}")
        first += [f"  warning: {warning}" for warning in self.warnings]
        return [*first, *(f"  {problem}" for problem in self.problems), *rest]


def require_clean(reports: Sequence[TaskReport], *, allow: Collection[ProblemKind] = ()) -> None:
    """Raise if any report has a problem of a kind that is neither allowed nor tolerated in its task.

    Raises:
        BenchmarkError: lists the reports with such problems.
    """
    bad = [report for report in reports if set(report.counts) - {*allow, *report.tolerated}]
    if bad:
        lines = [line for report in bad for line in report.lines()]
        if any(report.num_problems > len(report.problems) for report in bad):
            lines.append("`check --all` with the same options names each")
        total = counted(sum(report.num_problems for report in bad), "problem")
        raise BenchmarkError("\n".join([f"{total} in {counted(len(bad), 'task')}", *lines]))


def tolerated(reports: Sequence[TaskReport]) -> str:
    """What was found and is tolerated, in one line; empty where there is nothing."""
    found = [
        f"{report.task} {counted(report.counts[kind], str(kind))}"
        for report in reports
        for kind in ProblemKind
        if kind in report.tolerated and report.counts[kind]
    ]
    return f"tolerated in published splits: {', '.join(found)}; `check` lists them" if found else ""


def _group(problem: Problem) -> str:
    cause = f": {problem.cause}" if problem.cause else ""
    return f"{problem.split}: {problem.kind}{cause}"
