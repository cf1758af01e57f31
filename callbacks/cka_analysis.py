"""CKAAnalysis: after every stage, how alike the decoder's layers represent the tasks learned so far."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from torch import Tensor

from callbacks.dynamic_ema import DynamicEMA
from lit_cvit.analysis.cka import THRESHOLD, At, Kernel, squared_distances
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.probing.features import pooled_outputs, rows_of
from lit_cvit.report.cka import CKAReport, write_cka
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.settings import AtLeastOne, NotNegative


class CKAAnalysis(StageCallback):
    """Compares tasks, and a task at different stages, by centred kernel alignment (HiDe-LLaVA, Fig. 1).

    What: a fixed number of test samples of each task is run, every decoder layer's output is averaged over
    the prompt, and these vectors are compared layer by layer (`lit_cvit.analysis.cka`). From the second task
    on, `analysis/cka/` in the run folder holds values (JSON, CSV), heat maps, the curve over the layers and
    the first task-specific layer, which `HiDe(expand: auto)` reads. `python -m lit_cvit analyze cka` makes
    the same files from a finished run, also through any other stage.

    When: at a stage's end, before the stage is saved, so that the vectors are saved with it and a resume has
    them. Training goes on as without this callback, bit for bit.

    Caveats: rows of different tasks are different samples, so values between tasks depend on their order;
    the report has the mean over all orders beside them. In a stream of T tasks, samples are run for T pairs
    of task and stage, or with `between_stages` T(T+1)/2. Kept are, for each task, its vectors at its own
    stage (layers x samples x width in float32: 34 MB for a 7B model) and small matrices for later stages.
    List it after a callback that changes what a stage keeps, as DynamicEMA does.

    Example::

        model:
          class_path: SeqLoRA
        trainer:
          callbacks:
          - class_path: CKAAnalysis
            init_args: {kernel: linear, at: layer, through: own, num_samples: 50}

    Args:
        kernel: `linear` as in the paper, or `rbf` as in its published code.
        at: What is compared: outputs of each decoder `layer`, or of its `mlp.down_proj` (`down_proj`, the
            published code).
        through: The adapter that a task's inputs go through when tasks are compared: that of its `own` stage
            (the paper), or the `current` one for all.
        num_samples: Test samples of each task, evenly spaced over its split; if the smallest split of the
            stream has fewer, as many of each as that.
        between_stages: Whether each task is also compared with itself at later stages.
        threshold: Drop of the mean CKA from one layer to the next that makes a layer the first task-specific
            one.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        kernel: Kernel = "linear",
        at: At = "layer",
        through: Literal["own", "current"] = "own",
        num_samples: AtLeastOne = 64,
        between_stages: bool = True,
        threshold: NotNegative = THRESHOLD,
    ) -> None:
        super().__init__()
        self.kernel, self.at = kernel, at
        self.through, self.num_samples = through, num_samples
        self.between_stages, self.threshold = between_stages, threshold
        self.vectors: dict[str, Tensor] = {}
        self._own: dict[str, int] = {}
        self._later: dict[str, dict[int, Tensor]] = {}
        self._rows: dict[str, list[int]] = {}
        self._idle = False

    # -- stages ---------------------------------------------------------------------------------------------

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        after = trainer.callbacks[trainer.callbacks.index(self) :]
        if any(isinstance(callback, DynamicEMA) for callback in after):
            raise ValueError(
                "CKAAnalysis stands before DynamicEMA, whose average takes the parameters' place at a "
                "stage's end; list it after DynamicEMA, so that it analyses what the stage stores"
            )
        self._idle = self.through == "own" and len(trainer.stages) == 1
        if self._idle:
            warnings.warn(
                "CKAAnalysis has no effect: through: own compares the adapters of stages, and this run has "
                "one stage; through: current sends all tasks through the one adapter",
                stacklevel=2,
            )
        else:
            self._rows = rows_of(trainer.data.stream, self.num_samples)

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        if self._idle:
            return
        if not self.between_stages:
            self._later.clear()
        everything = self.between_stages or self.through == "current"
        for task in stage.seen:
            own = task.name == stage.task.name
            if not (own or everything):
                continue
            vectors = pooled_outputs(
                method,
                trainer.data,
                task,
                self._rows[task.name],
                at=self.at,
                device=trainer.strategy.root_device,
                precision=trainer.precision_plugin.forward_context,
            )
            if own:
                self.vectors[task.name], self._own[task.name] = vectors, stage.number
            else:
                self._later.setdefault(task.name, {})[stage.number] = squared_distances(vectors)
        report = self.report(stage)
        # The other ranks have the same report, and need no figures.
        if report is not None and trainer.run.writer.enabled:
            run = trainer.run
            write_cka(run.writer, run.analysis_path("cka"), report, run.record)

    def report(self, stage: Stage) -> CKAReport | None:
        """What is known at the end of a stage, or None while there are no two tasks to compare."""
        stages = dict(self._own)
        if self.through == "current":
            stages = {task.name: stage.number for task in stage.seen}
        if len(stages) < 2:
            return None
        distances = {task: dict(found) for task, found in self._later.items()}
        for task, number in self._own.items():
            distances.setdefault(task, {})[number] = squared_distances(self.vectors[task])
        return CKAReport(
            distances={task: distances[task] for task in stages},
            stages=stages,
            rows=self._rows,
            kernel=self.kernel,
            at=self.at,
            through=self.through,
            threshold=self.threshold,
        )

    # -- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        later = {task: dict(found) for task, found in self._later.items()}
        state = {"vectors": dict(self.vectors), "own": dict(self._own), "later": later}
        return state if self.vectors or later else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.vectors = dict(state_dict["vectors"])
        self._own = dict(state_dict["own"])
        self._later = {task: dict(found) for task, found in state_dict["later"].items()}
