"""The plan of a run that is not started: memory, steps, passes over test splits, and time."""

from __future__ import annotations

from dataclasses import dataclass

from callbacks import StageEvaluation
from callbacks.stream_progress import planned, planned_steps
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Task
from lit_cvit.methods import ContinualMethod
from lit_cvit.run import RunRecord, newest_run
from lit_cvit.stream.trainer import ContinualTrainer


@dataclass(frozen=True)
class Pace:
    """How long a step and an answer take.

    Attributes:
        step: Seconds of an optimizer step; None where it is not known.
        answer: Seconds of an answer to a test sample; None where it is not known.
        source: Where the seconds come from.
    """

    step: float | None
    answer: float | None
    source: str

    def words(self, num_steps: int, num_answers: int) -> str:
        """The time of a run in words, or which seconds lack."""
        needed = (("step", num_steps, self.step), ("answer", num_answers, self.answer))
        lacking = [f"--seconds_per_{name}" for name, number, seconds in needed if number and seconds is None]
        if lacking:
            return (
                f"unknown: no run of this configuration was measured; give {' and '.join(lacking)}, or train "
                "its first stage once"
            )
        counted = [(name, number, seconds) for name, number, seconds in needed if number and seconds]
        total = sum(number * seconds for _, number, seconds in counted)
        each = " and ".join(f"{seconds:.3g} s for each {name}" for name, _, seconds in counted)
        return f"about {total / 60:.1f} min: {each}, {self.source}"


def plan_lines(cli: StreamCLI, given: Pace) -> list[str]:
    """Plan the run of a configuration.

    Args:
        cli: The objects of the configuration.
        given: Seconds that the user states; those of an earlier run stand in for what is not stated.

    Raises:
        ValueError: `fit` would refuse the configuration; says why.
    """
    trainer, method, data = cli.trainer, cli.model, cli.datamodule
    assert isinstance(trainer, ContinualTrainer)
    assert isinstance(method, ContinualMethod)
    assert isinstance(data, ContinualDataModule)
    record = trainer.plan_run(method, data)
    lines = [
        *trainer.memory_plan,
        f"method    {record.method}, seed {record.seed}",
        f"access    {trainer.access(method).words()}",
        f"backbone  {record.backbone['name_or_path']}, {method.frozen_words}",
        f"stream    {record.benchmark}: {' > '.join(record.stream)}",
    ]
    num_steps = num_answers = 0
    for stage in trainer.stages:
        tested = _tested(trainer, stage)
        steps = planned_steps(trainer, stage) if method.trains else 0
        answers = sum(len(task.test) for task in tested)
        names = f" to {', '.join(task.name for task in tested)}" if tested else ""
        samples = len(stage.task.train or ())
        lines.append(
            f"stage {stage.number:<3} {stage.task.name}: {samples} samples, {steps} steps; then {answers} "
            f"answers{names}"
        )
        num_steps, num_answers = num_steps + steps, num_answers + answers
    pace = _pace(given, trainer.run_root, record)
    return [
        *lines,
        f"planned   {planned(trainer, num_steps)}, {num_answers} answers",
        f"time      {pace.words(num_steps, num_answers)}",
    ]


def _tested(trainer: ContinualTrainer, stage: Stage) -> list[Task]:
    scoring = [each for each in trainer.callbacks if isinstance(each, StageEvaluation)]
    return [task for each in scoring for task in each.tasks_after(trainer, stage)]


def _pace(given: Pace, root: str, record: RunRecord) -> Pace:
    """What is given, completed by what the newest run of the same configuration took on as many ranks."""
    run = newest_run(root, record.config_digest) if record.config_digest else None
    if (given.step and given.answer) or run is None or run.record.world_size != record.world_size:
        return given
    steps = seconds = answers = asked = 0.0
    for number in run.stages_done():
        entry, scores = run.record.stage(number), run.scores(number)
        steps += entry.facts["steps"]
        seconds += entry.seconds["train"]
        for score in scores.tasks.values() if scores else ():
            answers += score.count
            asked += score.seconds
    return Pace(
        given.step or (seconds / steps if steps else None),
        given.answer or (asked / answers if answers else None),
        f"as measured in {run.path}"
        if not (given.step or given.answer)
        else f"as given, else as in {run.path}",
    )
