"""RoutingTrace: which blocks every task's samples use, in every layer, after each stage."""

from __future__ import annotations

import warnings

from lit_cvit.analysis.routing import RoutingReport
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.probing.tracing import trace_tasks
from lit_cvit.report.routing import is_written, routing_folder, write_routing
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.distributed import from_first
from lit_cvit.utils.settings import AtLeastOne


class RoutingTrace(StageCallback):
    """Follows test samples through the method's routing when a stage is saved.

    What: some test samples of every task are run once, as far as the first answer token would be. For every
    bank that has a gate it keeps, by task, the mean gate of each block and the share of samples that use the
    block; where two branches are fused adaptively (SMoLoRA), the means of alpha and beta. The run folder gets
    `analysis/routing/<stage>/` with `routing.json`, `routing.csv` (one value a row), heat maps of blocks and
    tasks for every layer (`gate.png`, `used.png`) and alpha and beta over the layers (`fusion.png`).

    When: with any method whose banks have gates. `python -m lit_cvit analyze routing` does the same for a
    finished run.

    Caveats: a method without gates (SeqLoRA) routes nothing, which is reported once; nothing is written then.
    The projector is a bank like the others, but sees only samples with an image. Which copy of a fully
    trained projector a sample takes is not traced. Training is untouched: nothing is drawn at random, and the
    method keeps nothing of it. The callback has no state: what a killed run lacks is written when it goes on.

    Example::

        model:
          class_path: SMoLoRA
        trainer:
          callbacks:
          - class_path: RoutingTrace
            init_args: {num_samples: 64, unseen: true}

    Args:
        num_samples: Test samples of each task, evenly spaced over its split; fewer if it has fewer.
        unseen: Whether tasks that are not learned yet and downstream tasks are run too; they are labelled.

    Raises:
        ValueError: `num_samples` is below 1.
    """

    def __init__(self, num_samples: AtLeastOne = 64, unseen: bool = False) -> None:
        super().__init__()
        self.num_samples, self.unseen = num_samples, unseen
        self._warned = False

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        done = trainer.run.stages_done()
        # A run that was killed after its newest stage was scored is not notified of that stage again.
        if done and not from_first(is_written(routing_folder(trainer.run, done[-1]))):
            self._trace(trainer, method, trainer.stages[done[-1] - 1])

    def on_stage_saved(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._trace(trainer, method, stage)

    def _trace(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        tasks = trace_tasks(
            method,
            trainer.data,
            stage,
            unseen=self.unseen,
            num_samples=self.num_samples,
            device=trainer.strategy.root_device,
            precision=trainer.precision_plugin.forward_context,
            before_task=trainer.check_stop,
        )
        if tasks:
            report = RoutingReport(stage.number, stage.task.name, tasks)
            run = trainer.run
            write_routing(run.writer, routing_folder(run, stage.number), report, run.record)
        elif not self._warned and trainer.is_global_zero:
            self._warned = True
            warnings.warn(
                f"RoutingTrace: {type(method).__name__} as configured routes nothing (no bank of it has a "
                "gate), so there is nothing to trace",
                stacklevel=2,
            )
