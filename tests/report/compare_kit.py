"""What the tests of `compare` share: runs whose scores and predictions are made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_cvit.run import RunFolder, RunRecord, StageScores, TaskScore

TASKS = ("QA", "Cap")
DIGEST, OTHER = "a" * 64, "b" * 64
Scores = Mapping[str, Sequence[float]]


def record(**changes: Any) -> RunRecord:
    """The record of a run on two tasks, the second of which is captions."""
    facts: dict[str, Any] = {
        "seed": 0,
        "config_digest": "d",
        "method": "SeqLoRA",
        "benchmark": "toy",
        "stream": list(TASKS),
        "captions": ["Cap"],
        "num_stages": 2,
        "content_versions": {"toy": 1},
        "data": dict.fromkeys(TASKS, DIGEST),
        "scoring": {task: {"scorer": "exact", "max_new_tokens": 8} for task in TASKS},
    }
    return RunRecord(**{**facts, **changes})


def make_run(
    root: Path,
    name: str,
    final: Scores,
    *,
    own: Scores | None = None,
    in_form: Scores | None = None,
    config: str = "",
    trained: int | None = None,
    percent: Mapping[str, float] | None = None,
    ids: Mapping[str, Sequence[str]] | None = None,
    references: str = "yes",
    predictions: bool = True,
    learned: str = "all",
    **changes: Any,
) -> Path:
    """A run folder of two stages, or of one: joint training, or that of a single task.

    Args:
        root: Its parent.
        name: Its name.
        final: Scores of the samples of both tasks after the last stage, from 0 to 1.
        own: Scores of the samples of QA after its own stage; by default all 1.
        in_form: Whether answers have the right form, by default all.
        config: More lines of the configuration, beside method and seed.
        trained: Stages that are trained and scored, by default all; a run of one stage is joint training.
        percent: Scores of tasks whose scorer pools counts, in place of the mean of samples.
        ids: Ids of samples, by default 0, 1 ...
        references: The reference of every sample.
        predictions: Whether predictions are stored.
        learned: What the stage of a run of one stage has learned.
        changes: Changes to the record.
    """
    made = record(**changes)
    text = f"seed_everything: {made.seed}\nmodel: {{class_path: {made.method}}}\n{config}"
    run = RunFolder.create(root, name, text, record=made)
    forms = in_form or {}
    for stage in range(1, (made.num_stages if trained is None else trained) + 1):
        task = made.stream[stage - 1] if made.num_stages > 1 else learned
        run.plan_stage(stage, task, {})
        run.save_stage(stage, {"w": torch.ones(1)}, {})
        last = stage == made.num_stages
        of_task = dict(final) if last else {"QA": (own or {"QA": [1.0] * len(final["QA"])})["QA"]}
        tasks = {}
        for name, scores in of_task.items():
            form = forms.get(name, [1.0] * len(scores)) if last else [1.0] * len(scores)
            mean = 100 * sum(scores) / len(scores)
            whole = (percent or {}).get(name, mean) if last else mean
            tasks[name] = TaskScore(score=whole, count=len(scores), mif=100 * sum(form) / len(form))
            names = (ids or {}).get(name, [f"{name}-{number}" for number in range(len(scores))])
            rows = [
                {"id": sample, "references": [references], "score": score, "format_ok": bool(ok)}
                for sample, score, ok in zip(names, scores, form, strict=True)
            ]
            if predictions:
                run.write_predictions(stage, name, rows)
        run.save_scores(StageScores(stage, task, tasks))
    return run.path
