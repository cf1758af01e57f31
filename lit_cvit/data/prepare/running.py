"""Prepares several tasks at a time, with a bar for each; tells at the end, at once, what went wrong."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lit_cvit.data.prepare import converters_of
from lit_cvit.data.prepare.base import Converter, Request
from lit_cvit.data.prepare.locating import raw_problems
from lit_cvit.data.prepare.writing import list_ahead, prepare_task, read_manifest
from lit_cvit.utils.processes import end_with_parent

_POLL = 0.2

Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        task: Its name.
        manifest: Its manifest; empty if it failed.
        published: Number of records of each split that the authors print, in words.
        was_there: Whether it was complete before.
        error: Why it failed; empty if it did not.
        folder: Where it lies.
    """

    task: str
    manifest: dict[str, Any]
    published: Mapping[str, str] = field(default_factory=dict)
    was_there: bool = False
    error: str = ""
    folder: Path = Path()

    def lines(self) -> list[str]:
        """What was found, what was dropped and why, for people."""
        if self.error:
            return [f"{self.task}: failed, see below"]
        lines = []
        for name, split in self.manifest["splits"].items():
            published = self.published[name]
            beside = f"published: {published}" if published else "no published count"
            again = "; was there, raw files unchanged" if self.was_there else ""
            lines.append(f"{self.task} {name}: {split['records']} records ({beside}){again}")
            if split["draw"]:
                lines.append(f"  drawn from {split['found']}: {split['draw']}")
            lines += [f"  dropped {count}: {reason}" for reason, count in split["dropped"].items()]
            lines += [f"  note: {split['note']}"] if split["note"] else []
        for name, number in self.manifest.get("lists", {}).items():
            lines.append(f"{self.task} {Path(name).stem}: {number}, listed in {self.folder / name}")
        return lines


def prepare(
    request: Request, *, tasks: list[str] | None = None, workers: int = 0, console: Console | None = None
) -> list[Outcome]:
    """Prepare the tasks of a benchmark; those that are there already from the same raw files are left alone.

    Args:
        request: Benchmark, folders and limit.
        tasks: Names of the tasks; None for all.
        workers: Processes at a time; 0 for one for every task, or as many as there are cores.
        console: Where the bars are drawn; None for standard error.

    Returns:
        One outcome a task, in order; those that failed say why.

    Raises:
        ValueError: benchmark or task is unknown, raw files are missing (all of them are named, with where to
            get them), or a folder holds the task of another benchmark.
    """
    chosen = converters_of(request.benchmark, tasks)
    _check_out(chosen, request)
    _check_raw(chosen, request)
    workers = min(workers or os.cpu_count() or 1, len(chosen))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    outcomes = {}
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        bars = {converter.task: progress.add_task(converter.task, total=None) for converter in chosen}

        def report(task: str, number: int) -> None:
            progress.advance(bars[task], number)

        run = _one_by_one if workers == 1 else _in_parallel
        for outcome in run(chosen, request, workers, report):
            outcomes[outcome.task] = outcome
            done = progress.tasks[bars[outcome.task]].completed
            progress.update(bars[outcome.task], total=max(done, 1), completed=max(done, 1))
    return [outcomes[converter.task] for converter in chosen]


def _check_raw(chosen: Sequence[Converter], request: Request) -> None:
    holds = "it holds a folder of downloads for every data set"
    if not os.path.exists(request.raw):
        raise ValueError(f"--raw: no folder {request.raw}; {holds}")
    if not os.path.isdir(request.raw):
        raise ValueError(f"--raw: {request.raw} is a file, it must be a folder; {holds}")
    if not os.access(request.raw, os.R_OK | os.X_OK):
        raise ValueError(f"--raw: no permission to read {request.raw}")
    needs: dict[str, list[str]] = {}
    ahead: list[str] = []
    for converter in chosen:
        problems = raw_problems(converter, request)
        if problems and all(raw.path.endswith("/") for raw in problems):
            ahead += [
                f"Of the folders of {converter.task}, only what {path} lists is needed.\n"
                for path in list_ahead(converter, request)
            ]
        for raw, problem in problems.items():
            about = f"  {raw.path}: {problem}\n    {raw.what}; from {raw.source}"
            needs.setdefault(about, []).append(converter.task)
    if needs:
        listed = "\n".join(f"{about} (for {', '.join(tasks)})" for about, tasks in needs.items())
        raise ValueError(
            f"--raw: these are missing or wrong under {request.raw}:\n{listed}\n"
            f"{''.join(ahead)}Or leave their tasks out with --tasks."
        )


def _check_out(chosen: Sequence[Converter], request: Request) -> None:
    for converter in chosen:
        folder = request.out / converter.task
        _check_folder(folder)
        other = read_manifest(folder).get("benchmark", request.benchmark)
        if other != request.benchmark:
            raise ValueError(
                f"--out: {folder} holds the task as prepared for {other!r}; give every benchmark a folder of "
                "its own"
            )


def _check_folder(folder: Path) -> None:
    """Check that a folder is one, or can be made."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path) or path == path.parent)
    if not os.path.isdir(there):
        raise ValueError(
            f"--out: {there} is no folder, so {folder} cannot be in it; name a folder or a new one"
        )
    to_do, needed = ("read", os.R_OK) if there == folder else ("write to", os.W_OK)
    if not os.access(there, needed | os.X_OK):
        raise ValueError(f"--out: no permission to {to_do} {there}")


def _one_by_one(
    chosen: Sequence[Converter], request: Request, workers: int, report: Report
) -> Iterator[Outcome]:
    for converter in chosen:
        yield _attempt(converter, request, report)


def _attempt(converter: Converter, request: Request, report: Report) -> Outcome:
    try:
        manifest, was_there = prepare_task(converter, request, lambda number: report(converter.task, number))
    except (ValueError, OSError) as error:
        return Outcome(converter.task, {}, error=str(error))
    folder = request.out / converter.task
    published = {name: split.printed for name, split in converter.splits[request.benchmark].items()}
    return Outcome(converter.task, manifest, published, was_there, folder=folder)


def _in_parallel(
    chosen: Sequence[Converter], request: Request, workers: int, report: Report
) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    reported = context.Queue()
    with ProcessPoolExecutor(workers, context, _start, (reported,)) as pool:
        tasks = {
            pool.submit(_attempt_elsewhere, request, converter.task): converter.task for converter in chosen
        }
        waiting: set[Future[Outcome]] = set(tasks)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL)
                _pass_on(reported, report)
                for future in done:
                    yield _result(future, tasks[future])
        except BaseException:
            # Leaving the pool waits for what runs in it, which may be minutes after an interrupt.
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def _result(future: Future[Outcome], task: str) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(task, {}, error="its process died, perhaps for want of memory; give fewer --workers")


def _pass_on(reported: Any, report: Report) -> None:
    while True:
        try:
            report(*reported.get_nowait())
        except queue.Empty:
            return


_reported: list[Any] = []
"""The queue to the parent, in a worker process."""


def _start(reported: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A parent that was killed ends no pool: its processes would go on writing, or wait for work for good.
    end_with_parent()
    _reported.append(reported)


def _attempt_elsewhere(request: Request, task: str) -> Outcome:
    [converter] = converters_of(request.benchmark, [task])
    return _attempt(converter, request, lambda *what: _reported[0].put(what))
