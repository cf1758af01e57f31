"""test: score a run with the model as it was after any of its stages, on its own tasks or on others.

With `--benchmark` the tasks of another benchmark are asked. `--benchmark general --root DIR` asks POPE, MME,
MMBench and SEED-Bench, and `--stage 0 3` says what tuning cost there: stage 0 is the untuned backbone.

A run whose backbone, encoders, settings, test data or scoring are not those it was trained with is refused,
unless `--allow_changes` names what may differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.verb_parser import VerbParser
from lit_cvit.utils.suggest import unknown

if TYPE_CHECKING:
    from lit_cvit.data.datamodule import ContinualDataModule
    from lit_cvit.data.measured import Measured
    from lit_cvit.data.tasks import Benchmark, Task
    from lit_cvit.evaluation import TaskResult
    from lit_cvit.run import RunFolder

Figures = dict[str, float]


def run(argv: Sequence[str]) -> int:
    """Run the verb; prints a line per task, and with `--out` keeps scores and predictions as JSON lines."""
    options = _parser().parse_args(argv)
    stages = sorted(set(options.stage or ()))
    for name in ("root", "limit"):
        if getattr(options, name) is not None and options.benchmark is None:
            raise CleanExit(f"--{name} goes with --benchmark; a run's own tasks are read as it read them")

    from lit_cvit.data.measured import Measured
    from lit_cvit.run import KINDS, RunFolder
    from lit_cvit.stream.restore import require_stage

    for kind in options.allow_changes:
        if kind not in KINDS:
            raise CleanExit(f"--allow_changes: {unknown('kind of change', kind, KINDS)}")
    if len(stages) > 1:
        folder = RunFolder.open(options.run, verify=True)
        for stage in stages:
            if stage:
                require_stage(folder, stage)
    asked = _asked(options) if options.benchmark is not None else None
    measured = Measured()
    if len(stages) < 2:
        _score_stage(options, next(iter(stages), None), asked, options.out, measured)
        return 0
    untuned: dict[str, Figures] = {}
    for stage in stages:
        out = options.out / f"stage-{stage}" if options.out is not None else None
        print(f"after stage {stage}:" if stage else "before any tuning (stage 0):")
        figures = _score_stage(options, stage, asked, out, measured, untuned)
        untuned = untuned if stage else figures
    return 0


def _parser() -> VerbParser:
    parser = VerbParser("test", __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument(
        "--stage",
        type=int,
        nargs="+",
        default=None,
        help="stage numbers; default: the last one. 0 is the backbone before any tuning, to compare with",
    )
    parser.add_argument(
        "--tasks", nargs="+", default=None, help="task names; default: the tasks learned so far"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for scores.json and predictions")
    parser.add_argument(
        "--benchmark",
        default=None,
        help="ask another benchmark's tasks, all by default: `general`, another name, or a .yaml file",
    )
    parser.add_argument("--root", type=Path, default=None, help="folder of that benchmark's files")
    parser.add_argument(
        "--limit", type=int, default=None, help="ask at most so many questions of each part of that benchmark"
    )
    parser.add_argument(
        "--allow_changes",
        nargs="+",
        default=[],
        metavar="KIND",
        help="test though these are not what the run was trained with, with a warning and a record in "
        "scores.json: backbone (its files), encoders, settings (of method and backbone), data (records and "
        "images of the tasks asked), scoring (answer format, scorers, max_new_tokens)",
    )
    return parser


def _asked(options: argparse.Namespace) -> Benchmark:
    """The benchmark that is named, as tasks that are only tested, checked before a model is loaded."""
    from lit_cvit.data.benchmarks import load_benchmark
    from lit_cvit.data.validation.check import check_benchmark, require_clean

    given = {"root": options.root and str(options.root), "limit": options.limit}
    settings = {name: value for name, value in given.items() if value is not None}
    found = load_benchmark(options.benchmark, settings, tasks=options.tasks)
    tasks = _chosen([*found.stream, *found.downstream], options.tasks)
    only_tested = tuple(replace(task, train=None) for task in tasks)
    benchmark = replace(found, stream=(), downstream=only_tested)
    require_clean(check_benchmark(benchmark))
    return benchmark


def _chosen(tasks: Sequence[Task], names: Sequence[str] | None) -> list[Task]:
    known = {task.name: task for task in tasks}
    for name in names or ():
        if name not in known:
            raise CleanExit(f"--tasks: {unknown('task', name, known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _own_tasks(
    run: RunFolder, data: ContinualDataModule, stage: int, names: Sequence[str] | None
) -> list[Task]:
    """The tasks of the run that are named, or those learned so far, or all of its stream if none is."""
    record, benchmark = run.record, data.benchmark
    learned = [entry.task for entry in record.stages[:stage]]
    default = [name for name in record.stream if name in learned] or record.stream
    gone = [
        name
        for name in default
        if name not in {task.name for task in (*benchmark.stream, *benchmark.downstream)}
    ]
    if gone and not names:
        raise ValueError(
            f"{run.path} learned {', '.join(gone)}, which its benchmark {benchmark.name} does not have any "
            "more; put it back, or name other tasks with --tasks"
        )
    return _chosen([*benchmark.stream, *benchmark.downstream], names or default)


def _score_stage(
    options: argparse.Namespace,
    stage: int | None,
    asked: Benchmark | None,
    out: Path | None,
    measured: Measured,
    untuned: dict[str, Figures] | None = None,
) -> dict[str, Figures]:
    """Score one stage; returns every task's figures. Only what is measured of samples outlives the call."""
    from lit_cvit.cli.load import load_run
    from lit_cvit.evaluation import evaluate_task
    from lit_cvit.run import Writer, in_words

    tasks = list(asked.downstream) if asked else []

    def own_tasks(run: RunFolder, data: ContinualDataModule, number: int) -> list[Task]:
        """Notes the tasks that are asked, if they are the run's own."""
        if asked is None:
            tasks[:] = _own_tasks(run, data, number, options.tasks)
        return [] if asked else tasks

    loaded = load_run(
        options.run,
        stage=stage,
        measured=measured,
        reads=own_tasks,
        scores=True,
        allowed=options.allow_changes,
    )
    if loaded.changes:
        print(f"changed since the run was trained: {in_words(loaded.changes)}", file=sys.stderr)
    if asked:
        loaded.method.set_tasks((*loaded.data.stream, *loaded.data.downstream, *tasks))
    writer, sheet = Writer(), _Sheet(untuned or {})
    for task in tasks:
        result = evaluate_task(
            loaded.method,
            loaded.data,
            task,
            device=loaded.trainer.strategy.root_device,
            precision=loaded.trainer.precision_plugin.forward_context,
            progress=AnswerCounter(task),
        )
        print("\n".join(sheet.add(task, result)), flush=True)
        if out is not None:
            writer.write_lines(out / f"{task.name}.jsonl", result.rows)
    if out is not None:
        of: dict[str, object] = {"benchmark": asked.name} if asked else {}
        if loaded.changes:
            of["changes"] = [change.to_json() for change in loaded.changes]
        writer.write_json(out / "scores.json", {"stage": loaded.stage, **of, **sheet.values})
    return sheet.figures


class AnswerCounter:
    """Counts a task's answers on one line of the terminal; silent where the error output is none."""

    def __init__(self, task: Task) -> None:
        self._task, self._answered = task, 0

    def __call__(self, num_answered: int) -> None:
        self._answered += num_answered
        if not sys.stderr.isatty():
            return
        line = f"{self._task.name}: {self._answered} of {len(self._task.test)} answered"
        done = self._answered == len(self._task.test)
        # The score takes the line's place.
        print(f"\r{' ' * len(line)}\r" if done else f"\r{line}", end="", file=sys.stderr, flush=True)


class _Sheet:
    """The scores of a stage: lines to print, and what `scores.json` keeps.

    Attributes:
        figures: Every task's figures by name; `score` is the main one.
        values: Plain values for JSON.
    """

    def __init__(self, untuned: dict[str, Figures]) -> None:
        self._untuned = untuned
        self.figures: dict[str, Figures] = {}
        self.values: dict[str, dict[str, object]] = {"tasks": {}}
        if untuned:
            self.values["by_tuning"] = {}

    def add(self, task: Task, result: TaskResult) -> list[str]:
        score = result.score
        self.values["tasks"][task.name] = asdict(score)
        figures = self.figures[task.name] = {"score": score.score, **score.also}
        # Figures of parts are too many to print; a task without a summary has one main score.
        shown = [name for name in score.also if "/" not in name] if task.summary else []
        further = "".join(f", {name} {score.also[name]:.2f}" for name in shown)
        lines = [f"{task.name}: {score.score:.2f} ({score.count} samples){further}"]
        if self._untuned:
            before = self._untuned[task.name]
            change = {name: value - before[name] for name, value in figures.items()}
            self.values["by_tuning"][task.name] = change
            further = "".join(f", {name} {change[name]:+.2f}" for name in shown)
            lines.append(f"  by tuning: {change['score']:+.2f}{further}")
        return lines
