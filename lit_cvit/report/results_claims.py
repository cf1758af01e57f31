"""Tables of a page that compare results with published ones: ranks of methods, ablations, what is kept.

Published figures are in `published.json` beside this file, by table: `source`, `metric` and `values` by row
(or by task). For these tables the values of the `cells` of a marker are the published rows.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

from lit_cvit.metrics.rank_correlation import rank_correlation
from lit_cvit.report.results import Groups, Result, over_seeds, summary_metric
from lit_cvit.report.tables import Cell, Table, markdown
from lit_cvit.utils.suggest import unknown

T = TypeVar("T")
# How far a share may be from the published one: the rule of docs/miniature.md.
WITHIN = 0.25


def ranks(groups: Groups, spec: Mapping[str, Any]) -> str:
    """Published and measured average of every method, and Spearman's rank correlation between them."""
    published = _published(spec)
    scores = {name: float(_one_of(published["values"], name, "published row")) for name in groups}
    rows: list[tuple[Cell, ...]] = [
        (name, f"{scores[name]:.1f}", len(groups[name]), over_seeds(groups[name], average))
        for name in sorted(groups, key=lambda each: -scores[each])
    ]
    head = ("", f"{published['source']}: {published['metric']}", "seeds", "here")
    table = markdown(Table(head, tuple(rows)))
    if len(groups) < 3:
        return table
    theirs = list(scores.values())
    means = [statistics.fmean(_averages(runs).values()) for runs in groups.values()]
    words = f"Spearman's rank correlation over {len(groups)} rows: **{rank_correlation(theirs, means):.2f}**"
    return f"{table}\n{words}{_over_seeds(list(groups.values()), theirs)}.\n"


def order(groups: Groups, spec: Mapping[str, Any]) -> str:
    """Rows in the order that a paper claims, the lowest first, and whether each is above the one before."""
    rows: list[tuple[Cell, ...]] = []
    published = _published(spec)["values"] if "published" in spec else {}
    metric = _one_of(_MEASURES, spec.get("measure", "average"), "measure")
    before: float | None = None
    for name, runs in groups.items():
        mean = statistics.fmean(value for run in runs if (value := metric(run)) is not None)
        step = "" if before is None else f"{'yes' if mean > before else 'no'} ({mean - before:+.1f})"
        theirs = f"{published[name]:.1f}" if name in published else ""
        rows.append((name, theirs, len(runs), over_seeds(runs, metric), step))
        before = mean
    return markdown(Table(("", "published", "seeds", "here", "above the row before"), tuple(rows)))


def kept(groups: Groups, spec: Mapping[str, Any]) -> str:
    """Share of its score that each task keeps, beside the published one.

    The share is the score at the end over that after the task's own stage, or, with `over` in the marker,
    over the score at the end of that group.
    """
    published = _published(spec)
    runs = next(iter(groups.values()))
    reference = _one_of(groups, spec["over"], "over") if "over" in spec else None
    rows: list[tuple[Cell, ...]] = []
    for task, theirs in published["values"].items():
        end = _mean_score(runs, task)
        own = _mean_score(reference, task) if reference else _mean_score(runs, task, own=True)
        share = end / own
        near = "yes" if abs(share - theirs) <= WITHIN else "no"
        rows.append((task, f"{own:.1f}", f"{end:.1f}", f"{share:.2f}", f"{theirs:.2f}", near))
    before = "multitask" if reference else "own stage"
    head = ("", before, "end", "kept", published["source"], f"within {WITHIN}")
    near_ones = sum(row[-1] == "yes" for row in rows)
    return f"{markdown(Table(head, tuple(rows)))}\n{near_ones} of {len(rows)} tasks.\n"


def _mean_score(runs: Sequence[Result], task: str, *, own: bool = False) -> float:
    """Mean over runs of a task's score at the end, or after its own stage."""
    scores = []
    for run in runs:
        row = run.matrix.stages.index(task) if own else -1
        score = run.matrix.scores[row][run.matrix.tasks.index(task)]
        if score is None:
            raise ValueError(f"results: {run.name} has no score of {task}")
        scores.append(score)
    return statistics.fmean(scores)


average = summary_metric("AP")
"""The final average over tasks, in percent."""


def _downstream(result: Result) -> float | None:
    """The mean score of the downstream tasks."""
    scores = [score for score in result.downstream.scores[-1] if score is not None]
    return statistics.fmean(scores) if scores else None


_MEASURES: dict[str, Callable[[Result], float | None]] = {"average": average, "downstream": _downstream}


def _averages(runs: Sequence[Result]) -> dict[int, float]:
    return {run.seed: value for run in runs if (value := average(run)) is not None}


def _over_seeds(groups: Sequence[Sequence[Result]], theirs: Sequence[float]) -> str:
    """The correlation of every seed that most methods share; a method with one run alone stands for all."""
    by_seed = [_averages(runs) for runs in groups]
    seeds = sorted({seed for values in by_seed for seed in values})
    found = []
    for seed in seeds:
        values = [each.get(seed, next(iter(each.values())) if len(each) == 1 else None) for each in by_seed]
        if None not in values:
            found.append(rank_correlation(theirs, [float(value or 0) for value in values]))
    return f" ({min(found):.2f} to {max(found):.2f} over {len(found)} seeds)" if len(found) > 1 else ""


def _published(spec: Mapping[str, Any]) -> dict[str, Any]:
    text = resources.files("lit_cvit.report").joinpath("published.json").read_text(encoding="utf-8")
    tables: dict[str, dict[str, Any]] = json.loads(text)
    return _one_of(tables, spec.get("published", ""), "published table")


def _one_of(options: Mapping[str, T], name: str, what: str) -> T:
    if name not in options:
        raise ValueError(f"results: {unknown(what, name, options)}")
    return options[name]
