"""Tables of a page that say what runs cost: parameters, seconds, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_cvit.report.results import Groups, Result, Value, over_seeds
from lit_cvit.report.tables import Cell, Table, markdown

ACTIVITIES = ("train", "evaluate")


def cost(groups: Groups, spec: Mapping[str, Any]) -> str:
    """A sentence: how many runs, on how many threads, their minutes and the most memory."""
    runs = [run for each in groups.values() for run in each]
    total = {activity: sum(_seconds(run, activity) for run in runs) for activity in ACTIVITIES}
    threads = sorted({run.run["machine"]["num_threads"] for run in runs})
    memory = [peak for run in runs if (peak := run.measured["peak_memory"]) is not None]
    most = f"; at most {max(memory) / 2**30:.1f} GiB of main memory" if memory else ""
    return (
        f"{len(runs)} runs with {', '.join(map(str, threads))} thread(s) each: {total['train'] / 60:.0f} "
        f"minutes of training and {total['evaluate'] / 60:.0f} minutes of evaluation{most}.\n"
    )


def efficiency(groups: Groups, spec: Mapping[str, Any]) -> str:
    """A row per group: thousands of parameters by role, seconds by activity, peak memory.

    `trainable`: in the last stage. `stored`: of the last stage. `at test`: of those, what is used at test
    (HiDe has merged blocks); backbone and encoders are not counted.
    """
    columns: dict[str, Value] = {
        "trainable (k)": lambda run: _parameters(run)["trainable"] / 1000,
        "stored (k)": lambda run: _parameters(run)["stored"] / 1000,
        "at test (k)": lambda run: _parameters(run).get("loaded", _parameters(run)["stored"]) / 1000,
        "training (s)": lambda run: _seconds(run, "train"),
        "evaluation (s)": lambda run: _seconds(run, "evaluate"),
        "peak memory (MiB)": _peak_memory,
    }
    rows: list[tuple[Cell, ...]] = [
        (shown, len(runs), *(over_seeds(runs, value) for value in columns.values()))
        for shown, runs in groups.items()
    ]
    return markdown(Table(("", "seeds", *columns), tuple(rows)))


def _seconds(run: Result, activity: str) -> float:
    return float(sum(stage["seconds"].get(activity, 0.0) for stage in run.stages))


def _parameters(run: Result) -> dict[str, int]:
    counts: dict[str, int] = run.stages[-1]["facts"]["parameters"]
    return counts


def _peak_memory(run: Result) -> float | None:
    """MiB of the accelerator where there is one, else of main memory."""
    accelerator = run.measured["accelerator_memory"]
    peak = run.measured["peak_memory"] if accelerator is None else accelerator
    return None if peak is None else peak / 2**20
