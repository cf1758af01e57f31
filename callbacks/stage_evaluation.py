"""StageEvaluation: scores the seen tasks after every stage, and the held-out tasks after the last one."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Literal

from lit_cvit.data.memory import SubsetSource
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.report import headline, run_summary, write_report
from lit_cvit.run import StageScores, TaskScore
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer


class StageEvaluation(StageCallback):
    """Fills a row of the score matrix after every stage.

    Predictions are stored as JSON lines beside each stage, the matrix is written anew, and `report/` after
    the last stage. Every logger of the trainer then gets the row, with the stream's global step as its step:
    `score/<task>`, and as far as they are defined `stage/AP`, `stage/MAP`, `stage/BWT` and `stage/MIF` (and
    `stage/AP_without_captions` and so on, where some learned tasks are captions). A resumed run logs no stage
    again; a process killed after storing a stage's scores and before logging them leaves that stage out of
    the loggers, never out of the run folder.

    The command line adds this callback by itself, so it is only named to change its settings. It
    should come first among callbacks that read scores, and it generates T(T+1)/2 times in a stream of T
    tasks, so `tasks: last` is there for trials.

    Example::

        trainer:
          callbacks:
          - class_path: StageEvaluation
            init_args: {tasks: all}

    Args:
        tasks: `seen` tasks the stream has learned so far, `all` tasks of the stream, or `last` for the task
            just learned, and all seen ones after the last stage.
        downstream: Whether the benchmark's zero-shot tasks are tested after the last stage.
        num_between: How many test samples of a task are asked after stages other than its own and the last,
            the first of its split; None asks all. Both ends of what is forgotten then stay exact, while the
            stages between cost less.
        predictions: Stages whose predictions are stored: `all`, the `last` (which `compare` draws samples
            of), or `none`. Scores are stored of all.
        report: Whether `report/` is written after the last stage; its figures take about a second.
        merge_adapters: Whether adapters whose gate is the same for a whole batch (SeqLoRA's, DirLoRA's, the
            fused layers of HiDe) are added into a layer's weight for the pass over a task, which saves their
            products. The weights are copied first and put back from the copy: that takes memory for the
            adapted layers a second time. In float32 answers stay the same but for rounding; in 16 bits the
            sum is rounded to the weight's type, which can change some. Routed banks, DoRA and layers in 4 or
            8 bits stay unmerged, and batches of one sample where gates are given per sample. The verb `test`
            always answers without merging.
    """

    def __init__(
        self,
        tasks: Literal["seen", "all", "last"] = "seen",
        downstream: bool = True,
        num_between: int | None = None,
        report: bool = True,
        predictions: Literal["all", "last", "none"] = "all",
        merge_adapters: bool = False,
    ) -> None:
        super().__init__()
        if num_between is not None and num_between < 1:
            raise ValueError(f"StageEvaluation: num_between must be at least 1, got {num_between}")
        self.num_between = num_between
        self.tasks = tasks
        self.downstream = downstream
        self.report = report
        self.predictions = predictions
        self.merge_adapters = merge_adapters
        self.answered = 0
        self.asked = 0
        self.task_name = ""

    def on_stage_saved(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        chosen, last = self.tasks_after(trainer, stage), stage.number == len(trainer.stages)
        self.answered, self.asked = 0, sum(len(task.test) for task in chosen)
        scores: dict[str, TaskScore] = {}
        if self.merge_adapters and not any(bank.merges for bank in method.banks.values()):
            reason = f"{type(method).__name__} has no adapter here that can be added into a layer's weight"
            warnings.warn(f"StageEvaluation: merge_adapters has no effect, {reason}", stacklevel=2)
        for task in chosen:
            self.task_name = task.name

            def progress(num_answered: int) -> None:
                self._count(num_answered)
                trainer.check_stop()

            result = evaluate_task(
                method,
                trainer.data,
                task,
                device=trainer.strategy.root_device,
                precision=trainer.precision_plugin.forward_context,
                journal=trainer.run.journal(stage.number, task.name),
                progress=progress,
                merge_adapters=self.merge_adapters,
            )
            scores[task.name] = result.score
            if self.predictions == "all" or (self.predictions == "last" and last):
                trainer.run.write_predictions(stage.number, task.name, result.rows)
        seconds = sum(score.seconds for score in scores.values())
        trainer.run.save_scores(StageScores(stage.number, stage.task.name, scores), seconds=seconds)
        if trainer.is_global_zero and trainer.loggers:
            _log(trainer, scores)
        # The other ranks read what rank 0 has written.
        trainer.strategy.barrier("scores")
        if self.report and last:
            write_report(trainer.run)

    def tasks_after(self, trainer: StreamTrainer, stage: Stage) -> tuple[Task, ...]:
        """The tasks that are tested after a stage, with the samples that are asked."""
        last = stage.number == len(trainer.stages)
        held_out = trainer.data.downstream if last and self.downstream else ()
        if self.tasks == "last" and not last:
            return stage.seen[-1:]
        asked = trainer.data.stream if self.tasks == "all" else stage.seen
        if self.num_between is not None and not last:
            asked = tuple(task if task.name == stage.task.name else self._shortened(task) for task in asked)
        return (*asked, *held_out)

    def _shortened(self, task: Task) -> Task:
        number = min(len(task.test), self.num_between or 0)
        return replace(task, test=SubsetSource(task.test, tuple(range(number))))

    def _count(self, num_answered: int) -> None:
        self.answered += num_answered


def _log(trainer: StreamTrainer, scores: dict[str, TaskScore]) -> None:
    values = {f"score/{task}": score.score for task, score in scores.items()}
    for name, value in headline(run_summary(trainer.run.matrix())).items():
        if not math.isnan(value):
            values[f"stage/{name.replace(' ', '_')}"] = value
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
        # The last stage comes after Lightning's own last call.
        logger.save()
