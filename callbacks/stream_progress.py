"""StreamProgress: what a person sees of a run, with rich on a terminal and in plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import lightning as L
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table as RichTable

from callbacks.stage_evaluation import StageEvaluation
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.report import Table, headline, matrix_table, run_summary, run_title, summary_table
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.settings import NotNegative


class StreamProgress(StageCallback):
    """The memory plan, a header, a progress bar, the matrix after every stage, and the summary at the end.

    The command line adds it by itself. Its rate of updates is limited by time, so it costs nothing that could
    be measured.

    Example::

        trainer:
          callbacks:
          - class_path: StreamProgress
            init_args: {every_seconds: 10}

    Args:
        every_seconds: Seconds between plain lines, where there is no terminal.
    """

    def __init__(self, every_seconds: NotNegative = 15.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.console = Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._last_line = 0.0
        self._start = 0.0
        self._measured_from: tuple[float, int] | None = None
        self._has_header = self._resumed = False

    # -- stream ---------------------------------------------------------------------------------------------

    def before_loading(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        self.console.quiet = not trainer.is_global_zero
        if trainer.memory_plan:
            self.console.print("\n".join(trainer.memory_plan))

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        self._start, self._measured_from = time.monotonic(), None
        self._has_header = False
        self._resumed = bool(trainer.run.stages_done()) or trainer.run.checkpoint_path.is_file()

    def on_stage_start(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._print_header(trainer, method)
        counts = method.parameter_counts()
        self.console.print(
            f"stage {stage.number}/{len(trainer.stages)}: {stage.task.name}, "
            f"{len(stage.task.train or ())} samples, {stage.num_steps} steps, "
            f"{counts['trainable']:,} trainable parameters"
        )

    def _print_header(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        # Not at the stream's start: how much trains is known once the method has grown for its first stage.
        if self._has_header:
            return
        self._has_header = True
        lines = header(trainer, method)
        if not self.console.is_terminal:
            self.console.print("\n".join(lines))
        else:
            self.console.print(Panel.fit("\n".join(lines), title="lit_cvit"))
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
            self._progress = Progress(*columns, console=self.console)
            self._progress.start()
            self._bar = self._progress.add_task("starting", total=total_steps(trainer, method))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not at the stream's start: the step of a checkpoint is known once the fit goes on from it.
        if self._measured_from is None:
            self._measured_from = (time.monotonic(), trainer.global_step)

    def on_step_end(self, trainer: StreamTrainer, method: ContinualMethod, step: int) -> None:
        stage = method.stage
        assert stage is not None
        loss = trainer.callback_metrics.get("loss/lm")
        losses = f"loss {float(loss):.3f}" if loss is not None else ""
        self._say(trainer, method, f"{self._place(trainer, stage)}, step {step + 1}, {losses}")

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._say(trainer, method, f"{self._place(trainer, stage)}, scoring", force=True)

    def on_stage_saved(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._print_header(trainer, method)
        matrix = trainer.run.matrix()
        if any(cell is not None for row in matrix.scores for cell in row):
            title = f"scores after stage {stage.number}"
            self.console.print(TerminalTable(matrix_table(matrix), title))

    def on_stream_end(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        self._print_header(trainer, method)
        if self._progress is not None:
            self._progress.stop()
        matrix = trainer.run.matrix()
        if any(cell is not None for row in matrix.scores for cell in row):
            shown = summary_table(headline(run_summary(matrix)))
            self.console.print(TerminalTable(shown, "summary"))
        self._print_downstream(trainer)
        minutes = (time.monotonic() - self._start) / 60
        since = " since it was resumed" if self._resumed else ""
        self.console.print(f"{run_title(trainer.run.record)}: {minutes:.1f} minutes{since}")
        self.console.print(f"run folder: {trainer.run.path}")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        # A bar that is not stopped leaves the terminal without a cursor.
        if self._progress is not None:
            self._progress.stop()

    # -- pieces ---------------------------------------------------------------------------------------------

    def _print_downstream(self, trainer: StreamTrainer) -> None:
        matrix = trainer.run.downstream()
        for task, column in zip(matrix.tasks, range(len(matrix.tasks)), strict=True):
            score, mif = matrix.scores[-1][column], matrix.mif[-1][column]
            if score is not None and mif is not None:
                self.console.print(f"held-out {task}: {score:.2f}, answers in form {mif:.1f} %")

    def _place(self, trainer: StreamTrainer, stage: Stage) -> str:
        return f"stage {stage.number}/{len(trainer.stages)} {stage.task.name}"

    def _say(
        self, trainer: StreamTrainer, method: ContinualMethod, text: str, *, force: bool = False
    ) -> None:
        total = total_steps(trainer, method)
        left = self._time_left(trainer, total)
        if self._progress is not None and self._bar is not None:
            done, description = trainer.global_step, f"{text}, {left}"
            self._progress.update(self._bar, total=total, completed=done, description=description)
            return
        now = time.monotonic()
        if force or now - self._last_line >= self.every_seconds:
            self._last_line = now
            self.console.print(f"{text}, {left}")

    def _time_left(self, trainer: StreamTrainer, total: int) -> str:
        since, first = self._measured_from or (time.monotonic(), trainer.global_step)
        done = trainer.global_step - first
        if done < 1:
            return "time left unknown"
        left = (time.monotonic() - since) / done * (total - trainer.global_step)
        return f"about {left / 60:.1f} min left"


def header(trainer: StreamTrainer, method: ContinualMethod) -> list[str]:
    """What a run is about to do, in lines: method, access, parameters, stream, planned passes."""
    record = trainer.run.record
    resumed = f" (stages 1 to {len(trainer.run.stages_done())} are done)" if trainer.run.stages_done() else ""
    lines = [
        f"method    {record.method}, seed {record.seed}",
        f"access    {trainer.access(method).words()}",
        f"backbone  {record.backbone['name_or_path']}, {_millions(method)} million parameters, "
        f"{method.frozen_words}",
        f"trains    {method.parameter_counts()['trainable']:,} parameters",
        f"stream    {record.benchmark}: {' > '.join(record.stream)}{resumed}",
        f"planned   {planned(trainer, total_steps(trainer, method))}",
        f"run       {trainer.run.path}",
    ]
    if record.miniature:
        lines.append("miniature: these numbers cannot be compared with published ones")
    return lines


def planned(trainer: StreamTrainer, num_steps: int) -> str:
    """Steps, stages and passes over test splits in words."""
    scoring = [callback for callback in trainer.callbacks if isinstance(callback, StageEvaluation)]
    passes = sum(len(each.tasks_after(trainer, stage)) for each in scoring for stage in trainer.stages)
    processes = f", on {trainer.world_size} processes" if trainer.world_size > 1 else ""
    return (
        f"{num_steps} steps of {trainer.data.step_size} samples in {len(trainer.stages)} stage(s), "
        f"{passes} passes over test splits{processes}"
    )


def total_steps(trainer: StreamTrainer, method: ContinualMethod) -> int:
    """Optimizer steps of the whole stream; stages to come count the rows that callbacks will add, at most."""
    return sum(_steps(trainer, method, stage) for stage in trainer.stages)


def _steps(trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> int:
    run, running = trainer.run, method.stage
    if stage.number in run.stages_done():
        return int(run.record.stage(stage.number).facts["steps"])
    if running is not None and running.number == stage.number:
        return running.num_steps
    return planned_steps(trainer, stage)


def planned_steps(trainer: StreamTrainer, stage: Stage) -> int:
    """Optimizer steps of a stage to come, with the rows that callbacks will add, at most."""
    rows = (each.planned_rows(stage) for each in trainer.callbacks if isinstance(each, StageCallback))
    return trainer.data.planned_steps(stage, sum(rows))


@dataclass(frozen=True)
class TerminalTable:
    """A report table for rich to print: columns that do not fit go on below, beside the first one again.

    Rich would cut the names of the columns short until all fit, and the tasks could not be identified.

    Attributes:
        table: What is shown; its first column tells the rows apart.
        title: Stands above it.
    """

    table: Table
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichTable]:
        """Yield the parts of the table, each as wide as the terminal allows."""
        parts = self._parts(options.max_width)
        for part, columns in enumerate(parts):
            title = self.title if part == 0 else None
            note = self.table.note if part == len(parts) - 1 else None
            shown = RichTable(title=title, caption=note or None)
            for column in columns:
                shown.add_column(
                    self.table.header[column], justify="left" if column == 0 else "right", overflow="fold"
                )
            for row in self.table.rows:
                shown.add_row(*(_cell(row[column]) for column in columns))
            yield shown

    def _parts(self, max_width: int) -> list[list[int]]:
        """Columns of each part."""
        lines = [self.table.header, *(map(_cell, row) for row in self.table.rows)]
        # A column has a space on both sides and a line on its left; the last line closes the table.
        widths = [max(map(cell_len, column)) + 3 for column in zip(*lines, strict=True)]
        parts, used = [[0]], 1 + widths[0]
        for column, width in enumerate(widths[1:], start=1):
            if used + width > max_width and len(parts[-1]) > 1:
                parts.append([0])
                used = 1 + widths[0]
            parts[-1].append(column)
            used += width
        return parts


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _millions(method: ContinualMethod) -> str:
    return f"{method.parameter_counts()['backbone'] / 1e6:.2f}"
