"""From finished cells to the tables of docs/results.md; reads run folders only, never a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from lit_cvit.report import run_summary
from lit_cvit.run import RunFolder, ScoreMatrix

CONTENT = "exact_content"
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Runs:
    """The finished runs of one method and setting, by seed."""

    name: str
    runs: tuple[RunFolder, ...]

    def over_seeds(self, value: Callable[[RunFolder], float | None]) -> str:
        """Mean and standard deviation over seeds, as text; empty where a run lacks the value."""
        values = [value(run) for run in self.runs]
        known = [v for v in values if v is not None]
        if len(known) < len(values) or not known:
            return ""
        spread = f" ± {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
        return f"{np.mean(known):.1f}{spread}"


def find(root: Path, name: str) -> Runs:
    """The finished runs called `name-<seed>`."""
    folders = sorted(p for p in root.glob(f"{name}-*") if re.fullmatch(rf"{re.escape(name)}-\d+", p.name))
    opened = [RunFolder.open(folder) for folder in folders if (folder / "report" / "summary.md").is_file()]
    return Runs(name, tuple(opened))


def metric(name: str) -> Callable[[RunFolder], float | None]:
    """A summary metric of a run."""
    return lambda run: run_summary(run.matrix()).get(name)


def caption(kind: str) -> Callable[[RunFolder], float | None]:
    """Final caption score: CIDEr, or the share of captions with exact content."""

    def value(run: RunFolder) -> float | None:
        matrix = run.matrix()
        cells = matrix.scores if kind == "cider" else matrix.also.get(kind, [])
        column = matrix.tasks.index(matrix.captions[0])
        return cells[-1][column] if cells else None

    return value


def score(task: str, *, stage: int | None = None, drop: bool = False) -> Callable[[RunFolder], float | None]:
    """A task's accuracy (captions: exact content) after its own stage, at the end, or the loss between."""

    def value(run: RunFolder) -> float | None:
        matrix = run.matrix()
        column = matrix.tasks.index(task)
        cells = matrix.also[CONTENT] if task in matrix.captions else matrix.scores
        learned = matrix.stages.index(task) if task in matrix.stages else len(cells) - 1
        row = len(cells) - 1 if stage == -1 else learned
        now, then = cells[-1][column], cells[learned][column]
        if drop:
            return None if now is None or then is None else then - now
        return cells[row][column]

    return value


def held_out(task: str, *, mif: bool = False) -> Callable[[RunFolder], float | None]:
    """A downstream task's score (captions: exact content) or MIF at the end of a run."""

    def value(run: RunFolder) -> float | None:
        matrix = run.downstream()
        if task not in matrix.tasks:
            matrix = run.matrix()
        column = matrix.tasks.index(task)
        cells = matrix.mif if mif else matrix.scores
        if not mif and task in matrix.captions:
            cells = matrix.also[CONTENT]
        return cells[-1][column]

    return value


def with_content(matrix: ScoreMatrix) -> ScoreMatrix:
    """The matrix with captions scored by exact content, in percent like all other tasks."""
    captions = [matrix.tasks.index(task) for task in matrix.captions]
    rows = [list(row) for row in matrix.scores]
    for row, content in zip(rows, matrix.also.get(CONTENT, []), strict=bool(captions)):
        for column in captions:
            row[column] = content[column]
    return replace(matrix, captions=(), scores=rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def bootstrap(root: Path, better: str, worse: str, *, field: str) -> tuple[float, float, float]:
    """Paired bootstrap over seeds and test samples of the difference of final means without captions.

    Args:
        root: Folder of the cells.
        better: Name of the first method's cells, without seed.
        worse: The second's.
        field: `score` or `format_ok` of the stored predictions (MIF counts captions too).

    Returns:
        The difference in points, and the bounds of its 95 % interval.
    """
    first, second = (_per_sample(find(root, name), field) for name in (better, worse))
    generator = np.random.default_rng(0)
    differences = first - second
    draws = []
    num_seeds, num_tasks, num_samples = differences.shape
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(num_seeds, size=num_seeds)
        samples = generator.integers(num_samples, size=(num_tasks, num_samples))
        # The test samples are the same for every seed, so they are drawn once for all.
        drawn = differences[seeds][:, np.arange(num_tasks)[:, None], samples]
        draws.append(100 * drawn.mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    return 100 * float(differences.mean()), float(low), float(high)


def _per_sample(runs: Runs, field: str) -> np.ndarray:
    """(seeds, tasks, samples) values at the last stage."""
    values = []
    for run in runs.runs:
        record = run.record
        tasks = [t for t in record.stream if field == "format_ok" or t not in record.captions]
        last = run.stages_done()[-1]
        rows = [[float(row[field]) for row in run.predictions(last, task)] for task in tasks]
        values.append(rows)
    return np.array(values)


def write_tables(root: Path, out: TextIO) -> None:
    """Write every table whose cells are finished."""
    for style in ("single", "multi"):
        names = ("ZeroShot", "SeqLoRA", "SMoLoRA", "SMoLoRA-official", "DirLoRA", "Multitask")
        found = [runs for name in names if (runs := find(root, f"{name}-{style}")).runs]
        out.write(f"\n### {style}-type instructions\n\n" + _main_table(found))
        pair = [runs for runs in found if runs.name in (f"SeqLoRA-{style}", f"SMoLoRA-{style}")]
        if len(pair) == 2 and len(pair[0].runs) == len(pair[1].runs):
            for field, what in (("score", "AP without captions"), ("format_ok", "MIF")):
                difference, low, high = bootstrap(root, f"SMoLoRA-{style}", f"SeqLoRA-{style}", field=field)
                out.write(
                    f"\nSMoLoRA - SeqLoRA, {what}: {difference:+.1f} points "
                    f"(95 % interval {low:+.1f} to {high:+.1f}).\n"
                )
        out.write(f"\n#### By task, {style}\n\n" + _task_table(found))
    ablation = ("SeqLoRA", "VU", "IF", "VU-IF-mean", "SMoLoRA")
    out.write("\n### Ablation\n\n" + _main_table([find(root, f"{name}-single") for name in ablation]))
    out.write("\n### Downstream\n\n" + _downstream_table(root))
    out.write("\n### Cost\n\n" + cost(root))


def _main_table(found: Sequence[Runs]) -> str:
    columns: dict[str, Callable[[RunFolder], float | None]] = {
        "AP": metric("AP without captions"),
        "MAP": metric("MAP without captions"),
        "BWT": metric("BWT without captions"),
        "MIF": metric("MIF"),
        "captions: content": caption(CONTENT),
        "captions: CIDEr": caption("cider"),
    }
    rows = [
        [runs.name.rpartition("-")[0], str(len(runs.runs)), *(runs.over_seeds(f) for f in columns.values())]
        for runs in found
        if runs.runs
    ]
    return table(["method", "seeds", *columns], rows)


def _task_table(found: Sequence[Runs]) -> str:
    if not found:
        return ""
    tasks = found[0].runs[0].record.stream
    rows = []
    for runs in found:
        name = runs.name.rpartition("-")[0]
        if len(runs.runs[0].record.stages) > 1:
            rows.append([f"{name}, after its stage", *(runs.over_seeds(score(task)) for task in tasks)])
        rows.append([f"{name}, at the end", *(runs.over_seeds(score(task, stage=-1)) for task in tasks)])
    return table(["", *tasks], rows)


def _downstream_table(root: Path) -> str:
    rows = []
    for name in ("SeqLoRA", "SMoLoRA"):
        runs = find(root, f"{name}-single")
        for task in ("VizWiz", "TextCaps", "OCR-VQA"):
            if runs.runs:
                cells = [runs.over_seeds(held_out(task)), runs.over_seeds(held_out(task, mif=True))]
                rows.append([name, f"{task}, zero-shot", *cells])
        for shots in (5, 10):
            few = find(root, f"{name}-{shots}shot")
            if few.runs:
                task = "Places365"
                cells = [few.over_seeds(held_out(task)), few.over_seeds(held_out(task, mif=True))]
                rows.append([name, f"{task}, {shots}-shot", *cells])
    return table(["method", "task", "score", "MIF"], rows)


def cost(root: Path) -> str:
    seconds = {"train": 0.0, "evaluate": 0.0}
    folders = [p.parent for p in sorted(root.glob("*/run.json"))]
    for folder in folders:
        for stage in RunFolder.open(folder).record.stages:
            for activity in seconds:
                seconds[activity] += stage.seconds.get(activity, 0.0)
    return (
        f"{len(folders)} runs, {seconds['train'] / 60:.0f} minutes of training and "
        f"{seconds['evaluate'] / 60:.0f} minutes of evaluation, two processes of one thread side by side.\n"
    )
