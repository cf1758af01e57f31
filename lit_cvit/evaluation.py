"""The evaluation engine: generates answers batch by batch, gathers them from the ranks, scores whole splits.

Whole batches, built over the whole split, are dealt to the ranks, so padding and with it every text is the
same on any number of ranks. Ranks gather rows keyed by sample; nothing is ever a mean of means.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.metrics.following import follows
from lit_cvit.metrics.text import evalai_normalize
from lit_cvit.run import TaskScore

Progress = Callable[[int], None]


@dataclass(frozen=True)
class TaskResult:
    """Scores of a task and the rows behind them.

    Attributes:
        score: Means over the split.
        rows: One plain dict per sample, in the order of the split: id, prompt, raw text, normalised text,
            references, score, further scores, format_ok.
    """

    score: TaskScore
    rows: list[dict[str, Any]]


def evaluate_task(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> TaskResult:
    """Answer and score a task's test split.

    Args:
        method: The method, as it is; it is put into evaluation mode and on `device`.
        data: Makes the batches.
        task: What is asked.
        device: Where to generate.
        progress: Told the number of samples answered after every batch.
    """
    start = time.perf_counter()
    texts = _answers(method, data, task, device=device, progress=progress)
    samples = [task.test.sample(index) for index in range(len(task.test))]
    predictions = [texts[index] for index in range(len(samples))]
    scores = task.scorer(predictions, samples)
    also = {scorer.name: scorer(predictions, samples) for scorer in task.also}
    in_form = [
        follows(task.answer_format.value, text, sample.answers)
        for text, sample in zip(predictions, samples, strict=True)
    ]
    rows = [
        {
            "id": sample.id,
            "prompt": method.backbone.prompt(sample),
            "text": text,
            "normalised": evalai_normalize(text),
            "references": list(sample.answers),
            "score": scores[index],
            "also": {name: values[index] for name, values in also.items()},
            "format_ok": in_form[index],
        }
        for index, (sample, text) in enumerate(zip(samples, predictions, strict=True))
    ]
    score = TaskScore(
        score=_percent(scores),
        count=len(samples),
        mif=_percent([float(ok) for ok in in_form]),
        also={name: _percent(values) for name, values in also.items()},
        seconds=round(time.perf_counter() - start, 3),
    )
    return TaskResult(score, rows)


def _answers(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    *,
    device: torch.device,
    progress: Progress | None,
) -> dict[int, str]:
    # By module: the frozen backbone stays in evaluation mode while its adapters train.
    modes = {module: module.training for module in method.modules()}
    method.to(device).eval()
    texts: dict[int, str] = {}
    try:
        for batch in data.eval_loader(task):
            answers = method.generate(batch.to(device), max_new_tokens=task.decoding_budget)
            texts.update(zip(batch.indices, answers, strict=True))
            if progress is not None:
                progress(len(batch))
    finally:
        for module, training in modes.items():
            module.training = training
    return texts


def _percent(values: list[float]) -> float:
    return 100 * sum(values) / len(values)
