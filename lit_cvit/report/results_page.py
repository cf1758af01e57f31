"""Tables of a page, generated out of results: a marker says which, the text around them is written by hand.

    <!-- results {"sweep": "cvit_mini", "table": "metrics", "cells": ["SeqLoRA", "SMoLoRA"]} -->
    <!-- end of results -->

What stands between the two lines is replaced. Keys of a marker, of which `sweep` and `table` are required:

* `sweep`: name of the sweep, a folder of results.
* `table`: `metrics`, `tasks` (scores by task), `downstream`, `cost` and `efficiency`
  (`results_costs.py`), `ranks`, `order` and `kept` (`results_claims.py`).
* `cells`: groups of cells (names without the seed), as a list, or as a mapping to what the table calls them;
  by default all, in the order of their names. A group whose cells are not measured yet has no row.
* `columns` (of `metrics`): names of metrics, likewise; by default AP, MAP, BWT and MIF. `ProgLoRA FWT` needs
  cells of each task alone in the same sweep (`isolated.py`).
* `at` (of `tasks`): `own`, right after a task's own stage, or `end`, after the last stage (the default).
* `captions`: `content` counts captions by exact content, in percent like all other tasks.
* `published` (of the claims): name of a table in `published.json`.
* `over` (of `kept`), `measure` (of `order`: `average` or `downstream`): see there.

A value is the mean over seeds and, from two on, the standard deviation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lit_cvit.report import results_claims, results_costs
from lit_cvit.report.isolated import FWT, isolated_runs, isolated_scores
from lit_cvit.report.results import Groups, Result, Value, over_seeds, read_results, summary_metric
from lit_cvit.report.summary import run_summary
from lit_cvit.report.tables import Cell, Table, markdown
from lit_cvit.run import ScoreMatrix
from lit_cvit.utils.suggest import unknown

_BLOCK = re.compile(r"(<!-- results (?P<spec>.*?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
_KEYS = ("sweep", "table", "cells", "columns", "at", "captions", "published", "over", "measure")
_CONTENT = "exact_content"
_COLUMNS = ("AP", "MAP", "BWT", "MIF")


def render(page: str, results: Path) -> str:
    """A page with its tables as the results are now.

    Args:
        page: The page, in Markdown.
        results: Folder that holds the results of each sweep in a folder of their own.

    Raises:
        ValueError: a marker is no JSON, or has an unknown key or value; names it.
    """

    def filled(found: re.Match[str]) -> str:
        return f"{found[1]}\n{block(_spec(found['spec']), results)}\n{found[3]}"

    return _BLOCK.sub(filled, page)


def _spec(text: str) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"results {text}: not valid JSON: {error}") from error
    for key in spec:
        if key not in _KEYS:
            raise ValueError(f"results {text}: {unknown('key', key, _KEYS)}")
    for key in ("sweep", "table"):
        if key not in spec:
            raise ValueError(f"results {text}: the key {key} is missing")
    return spec


def block(spec: Mapping[str, Any], results: Path) -> str:
    """What stands between the two lines of a marker.

    Raises:
        ValueError: a key has an unknown value, or a file of results is not valid.
    """
    groups: Groups = {}
    tables: dict[str, Callable[[Groups, Mapping[str, Any]], str]] = {
        "metrics": partial(_metrics, groups),
        "tasks": _tasks,
        "downstream": _downstream,
        "cost": results_costs.cost,
        "efficiency": results_costs.efficiency,
        "ranks": results_claims.ranks,
        "order": results_claims.order,
        "kept": results_claims.kept,
    }
    if spec["table"] not in tables:
        raise ValueError(f"results: {unknown('table', spec['table'], tables)}")
    for result in read_results(results / spec["sweep"]):
        groups.setdefault(result.group, []).append(counted(result, spec.get("captions", "")))
    names = _named(spec.get("cells", sorted(groups)))
    chosen = {shown: groups[name] for name, shown in names.items() if name in groups}
    if not chosen:
        return f"(`{spec['sweep']}` is not measured yet.)\n"
    return tables[spec["table"]](chosen, spec)


def with_content(matrix: ScoreMatrix) -> ScoreMatrix:
    """The matrix with captions scored by exact content, in percent like all other tasks.

    Raises:
        ValueError: there are captions, and their content was not scored.
    """
    if not matrix.captions:
        return matrix
    if _CONTENT not in matrix.also:
        raise ValueError(f"captions: the scorer {_CONTENT} did not run for {', '.join(matrix.captions)}")
    columns = [matrix.tasks.index(task) for task in matrix.captions]
    rows = [
        [content[column] if column in columns else cell for column, cell in enumerate(row)]
        for row, content in zip(matrix.scores, matrix.also[_CONTENT], strict=True)
    ]
    return replace(matrix, captions=(), scores=rows)


def counted(result: Result, captions: str) -> Result:
    """Results with their captions counted as a marker says: by exact `content`, or as they are (empty).

    Raises:
        ValueError: `captions` is something else, or content was not scored.
    """
    if captions not in ("", "content"):
        raise ValueError(f"results: {unknown('kind of captions', captions, ['content'])}")
    if not captions:
        return result
    return replace(result, matrix=with_content(result.matrix), downstream=with_content(result.downstream))


def _named(names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    return dict(names) if isinstance(names, Mapping) else {name: name for name in names}


def _metrics(everything: Groups, groups: Groups, spec: Mapping[str, Any]) -> str:
    columns = _named(spec.get("columns", _COLUMNS))
    alone = [result for results in everything.values() for result in results]

    def forward_transfer(result: Result) -> float | None:
        found = isolated_runs(result, alone)
        # Before all of them are measured there is none yet.
        if not set(result.matrix.tasks) <= set(found):
            return None
        return run_summary(result.matrix, isolated=isolated_scores(result, found))[FWT]

    values = {name: forward_transfer if name == FWT else summary_metric(name) for name in columns}
    rows: list[tuple[Cell, ...]] = [
        (shown, len(runs), *(over_seeds(runs, value) for value in values.values()))
        for shown, runs in groups.items()
    ]
    return markdown(Table(("", "seeds", *columns.values()), tuple(rows)))


def _tasks(groups: Groups, spec: Mapping[str, Any]) -> str:
    at = spec.get("at", "end")
    if at not in ("own", "end"):
        raise ValueError(f"results: {unknown('at', at, ['own', 'end'])}")
    tasks = next(iter(groups.values()))[0].matrix.tasks

    def score(task: str) -> Value:
        def value(result: Result) -> float | None:
            matrix = result.matrix
            # Joint training learns no task in a stage of its own.
            own = matrix.stages.index(task) if at == "own" and task in matrix.stages else -1
            return matrix.scores[own][matrix.tasks.index(task)]

        return value

    rows: list[tuple[Cell, ...]] = [
        (shown, len(runs), *(over_seeds(runs, score(task)) for task in tasks))
        for shown, runs in groups.items()
    ]
    return markdown(Table(("", "seeds", *tasks), tuple(rows)))


def _downstream(groups: Groups, spec: Mapping[str, Any]) -> str:
    def cell(task: str, *, mif: bool) -> Value:
        def value(result: Result) -> float | None:
            matrix = result.downstream
            cells = matrix.mif if mif else matrix.scores
            return cells[-1][matrix.tasks.index(task)]

        return value

    rows: list[tuple[Cell, ...]] = [
        (shown, task, len(runs), *(over_seeds(runs, cell(task, mif=mif)) for mif in (False, True)))
        for shown, runs in groups.items()
        for task in runs[0].downstream.tasks
    ]
    return markdown(Table(("", "task", "seeds", "score", "MIF"), tuple(rows)))
