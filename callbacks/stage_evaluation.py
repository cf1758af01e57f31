"""StageEvaluation: scores the seen tasks after every stage, and the held-out tasks after the last one."""

from __future__ import annotations

import math
from typing import Literal

from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Task
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.report import headline, run_summary, write_report
from lit_cvit.run import StageScores, TaskScore
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer


class StageEvaluation(StageCallback):
    """Fills a row of the score matrix after every stage.

    Predictions are kept as JSON lines beside each stage, the matrix is written anew, and `report/` after the
    last stage. Every logger of the trainer then gets the row, with the stream's global step as its step:
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
        report: Whether `report/` is written after the last stage; its figures take about a second.
    """

    def __init__(
        self,
        tasks: Literal["seen", "all", "last"] = "seen",
        downstream: bool = True,
        report: bool = True,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.downstream = downstream
        self.report = report
        self.answered = 0
        self.asked = 0
        self.task_name = ""

    def on_stage_saved(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        chosen = self.tasks_after(trainer, stage)
        self.answered, self.asked = 0, sum(len(task.test) for task in chosen)
        scores: dict[str, TaskScore] = {}
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
            )
            scores[task.name] = result.score
            trainer.run.write_predictions(stage.number, task.name, result.rows)
        seconds = sum(score.seconds for score in scores.values())
        trainer.run.save_scores(StageScores(stage.number, stage.task.name, scores), seconds=seconds)
        if trainer.is_global_zero and trainer.loggers:
            _log(trainer, scores)
        # The other ranks read what rank 0 has written.
        trainer.strategy.barrier("scores")
        if self.report and stage.number == len(trainer.stages):
            write_report(trainer.run)

    def tasks_after(self, trainer: StreamTrainer, stage: Stage) -> tuple[Task, ...]:
        """The tasks that are tested after a stage."""
        last = stage.number == len(trainer.stages)
        held_out = trainer.data.downstream if last and self.downstream else ()
        if self.tasks == "last" and not last:
            return stage.seen[-1:]
        return (*(trainer.data.stream if self.tasks == "all" else stage.seen), *held_out)

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
