"""The evaluation engine: generates answers batch by batch, gathers them from the ranks, scores whole splits.

Whole batches, built over the whole split, are dealt to the ranks, so padding and with it every text is the
same on any number of ranks. Ranks gather texts keyed by sample, round by round; nothing is ever a mean of
means. A journal keeps the rounds, so that an interrupted evaluation goes on with the round it had reached.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.sampling import EvalBatchSampler, EvalPlan
from lit_cvit.data.tasks import Task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.metrics.following import follows
from lit_cvit.metrics.text import evalai_normalize
from lit_cvit.run import AnswerJournal, TaskScore
from lit_cvit.utils.distributed import from_first, gathered, num_ranks, rank

Progress = Callable[[int], None]


@dataclass(frozen=True)
class TaskResult:
    """Scores of a task and the rows behind them.

    Attributes:
        score: Scores of the split.
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
    precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    journal: AnswerJournal | None = None,
    progress: Progress | None = None,
    merge_adapters: bool = False,
) -> TaskResult:
    """Answer and score a task's test split; every rank must call it, and gets the whole result.

    Args:
        method: The method, as it is; it is put into evaluation mode and on `device`.
        data: Makes the batches.
        task: What is asked.
        device: Where to generate.
        precision: Makes the context to generate in, for example a precision plugin's `forward_context`.
        journal: Keeps the answers of every round; those that it holds are not generated again.
        progress: Called with the number of samples answered after every round, those of the journal first.
        merge_adapters: Answer with adapters merged where a batch allows it (`ContinualMethod.merging`).
    """
    start = time.perf_counter()
    plan = data.eval_plan(task)
    journaled = _journaled_rounds(plan, journal)
    with precision(), method.merging() if merge_adapters else contextlib.nullcontext():
        texts = _answers(
            method, data, task, plan, journaled, device=device, journal=journal, progress=progress
        )
    samples = [task.test.sample(index) for index in range(len(task.test))]
    predictions = [texts[index] for index in range(len(samples))]
    scored = task.scorer.score(predictions, samples)
    also = {scorer.name: scorer.score(predictions, samples) for scorer in task.also}
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
            "score": scored.samples[index],
            "also": {name: further.samples[index] for name, further in also.items()},
            "format_ok": in_form[index],
        }
        for index, (sample, text) in enumerate(zip(samples, predictions, strict=True))
    ]
    score = TaskScore(
        score=scored.percent,
        count=len(samples),
        mif=_percent([float(ok) for ok in in_form]),
        also={name: further.percent for name, further in also.items()}
        | (task.summary(rows) if task.summary else {}),
        seconds=round(time.perf_counter() - start, 3),
    )
    return TaskResult(score, rows)


@contextlib.contextmanager
def evaluating(method: ContinualMethod, device: torch.device) -> Iterator[None]:
    """Have the method on `device` and in evaluation mode inside the block."""
    # By module: the frozen backbone stays in evaluation mode while its adapters train.
    modes = {module: module.training for module in method.modules()}
    method.to(device).eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _journaled_rounds(plan: EvalPlan, journal: AnswerJournal | None) -> list[dict[int, str]]:
    """The journal's rounds as rank 0 reads them, or none if they are not this evaluation's first ones."""
    rounds = from_first(journal.rounds() if journal is not None else [])
    for number, answers in enumerate(rounds):
        asked = {index for batch in plan.round(number, num_ranks()) for index in batch}
        if asked != answers.keys():
            if journal is not None:
                journal.clear()
            return []
    return rounds


def _answers(
    method: ContinualMethod,
    data: ContinualDataModule,
    task: Task,
    plan: EvalPlan,
    journaled: list[dict[int, str]],
    *,
    device: torch.device,
    journal: AnswerJournal | None,
    progress: Progress | None,
) -> dict[int, str]:
    texts = {index: text for answers in journaled for index, text in answers.items()}
    if progress is not None and texts:
        progress(len(texts))
    sampler = EvalBatchSampler(plan, rank=rank(), world_size=num_ranks())
    sampler.skip_batches = len(journaled)
    with evaluating(method, device):
        batches = iter(data.eval_loader(task, sampler))
        for _ in range(len(journaled), plan.num_rounds(num_ranks())):
            batch = next(batches, None)
            answers: dict[int, str] = {}
            # A rank may have no batch left, and answers end at different lengths.
            with method.backbone.in_lockstep():
                if batch is not None:
                    generated = method.generate(batch.to(device), max_new_tokens=task.decoding_budget)
                    answers = dict(zip(batch.indices, generated, strict=True))
            everyones = {index: text for part in gathered(answers) for index, text in part.items()}
            texts |= everyones
            if journal is not None:
                journal.add(everyones)
            if progress is not None:
                progress(len(everyones))
    return texts


def _percent(values: list[float]) -> float:
    return 100 * sum(values) / len(values)
