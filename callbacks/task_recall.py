"""TaskRecall: the gates that samples of earlier tasks had are held while a new task is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from lit_cvit.analysis.similarity import MeasuresSimilarity, require_similarities
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.memory import cycled, memory_rows, recall_size
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Sample, SampleSource
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.distributed import from_first
from lit_cvit.utils.settings import AtLeastOne

NAME = "recall"
_CHUNK = 64


@runtime_checkable
class RoutesBySample(Protocol):
    """A method that gates its blocks by sample, computed from features that need no language model."""

    @property
    def num_gates(self) -> int:
        """Blocks that a gate weights now."""
        ...

    def gate_features(self, samples: Sequence[Sample]) -> Tensor:
        """What the gates are computed from: (S, d). It does not change in training."""
        ...

    def gates(self, features: Tensor) -> Tensor:
        """The gates of features (S, d) as they are now: (S, num_gates)."""
        ...

    def gate_divergence(self, features: Tensor, targets: Tensor) -> Tensor:
        """How far the gates of features (S, d) are from stored ones (S, num_gates): (S,), differentiable."""
        ...


class TaskRecall(StageCallback):
    """Recalls the allocation of blocks for old tasks (ProgLoRA, Findings of ACL 2025, Eq. 8).

    What: at a stage's end, the gates of some samples of its task are stored, as the method computes them
    then. In later stages the divergence of the gates of now from the stored ones is the loss term
    `loss/recall`; the method gives the divergence. Stored gates are padded by zeros for blocks that came
    later, and are never renewed.

    When: with any method that gates its blocks by sample (`RoutesBySample`). ProgLoRADynamic needs it unless
    `recall: none`.

    Caveats: neither the language model nor images are needed; the texts are read from the data of the run, so
    a run that starts from another one recalls its own tasks alone.

    Example::

        model:
          class_path: ProgLoRADynamic
        trainer:
          callbacks:
          - class_path: TaskRecall
            init_args: {sizes: similarity, amount: 200, weight: 2.0}

    Args:
        sizes: How many samples of an old task are recalled: `amount` at `random`, or by `similarity`
            (1 - w) * `amount`, the less alike the tasks the more.
        amount: Samples that are kept of a task (phi).
        weight: Factor of the loss term (lambda).
        batch_size: Samples recalled at an optimizer step; by default all.
        reduction: `mean` over the samples of a step, or `sum` as Eq. 8 is written.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        sizes: Literal["random", "similarity"] = "similarity",
        amount: AtLeastOne = 200,
        weight: float = 2.0,
        batch_size: AtLeastOne | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.sizes, self.amount, self.weight = sizes, amount, weight
        self.batch_size, self.reduction = batch_size, reduction
        self.rows: dict[str, list[int]] = {}
        self.gates: dict[str, Tensor] = {}
        self._features = self._targets = torch.zeros(0, 0)

    @property
    def grants(self) -> tuple[str, ...]:
        return ("old_data",)

    # -- stages ---------------------------------------------------------------------------------------------

    def on_stream_start(self, trainer: StreamTrainer, method: ContinualMethod) -> None:
        _router(method)
        if self.sizes == "similarity":
            require_similarities(method, option="TaskRecall.sizes 'similarity'")

    def on_stage_start(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        router = _router(method)
        features, targets = [], []
        for task in stage.seen:
            if task.name == stage.task.name or task.train is None or task.name not in self.rows:
                continue
            number = self.num_recalled(method, task.name)
            if number:
                features.append(_features(router, task.train, self.rows[task.name][:number]))
                stored = self.gates[task.name][:number]
                targets.append(functional.pad(stored, (0, router.num_gates - stored.shape[1])))
        none = torch.zeros(0, 0)
        self._features = torch.cat(features) if features else none
        self._targets = torch.cat(targets) if targets else none
        if features:
            method.add_loss_term(NAME, self._term)

    def num_recalled(self, method: ContinualMethod, task: str) -> int:
        """Samples of an earlier task that are recalled while the current one is learned."""
        stored = len(self.rows[task])
        if self.sizes == "random":
            return stored
        assert isinstance(method, MeasuresSimilarity)
        similarity = method.similarities()[task]
        return recall_size(stored, sizes="similarity", amount=self.amount, similarity=similarity)

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        router, source, name = _router(method), stage.task.train, stage.task.name
        assert source is not None
        self.rows[name] = memory_rows(len(source), self.amount, seed=stage.seed, task=name)
        with torch.no_grad():
            gates = router.gates(_features(router, source, self.rows[name]).to(method.device))
        self.gates[name] = from_first(gates.cpu())

    # -- the loss term --------------------------------------------------------------------------------------

    def _term(self, method: ContinualMethod, batch: Batch, outputs: LossOutput) -> Tensor:
        """The divergence over the samples of the step; every micro-batch and rank has the same."""
        if not len(self._features):
            return torch.zeros((), device=method.device)
        assert method.stage is not None
        assert batch.place is not None
        place, features, targets = batch.place, self._features, self._targets
        if self.batch_size is not None:
            seed = mix(NAME, method.stage.seed, method.stage.number)
            rows = cycled(len(features), self.batch_size, step=place.step, seed=seed)
            features, targets = features[rows], targets[rows]
        apart = _router(method).gate_divergence(features.to(method.device), targets.to(method.device))
        value = apart.mean() if self.reduction == "mean" else apart.sum()
        parts = place.num_micro * method.trainer.world_size
        return method.share_of_step(value, parts, weight=self.weight)

    # -- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"rows": {task: list(rows) for task, rows in self.rows.items()}, "gates": dict(self.gates)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = {task: list(rows) for task, rows in state_dict["rows"].items()}
        self.gates = dict(state_dict["gates"])


def _router(method: ContinualMethod) -> RoutesBySample:
    if not isinstance(method, RoutesBySample):
        raise ValueError(
            "TaskRecall needs a method that gates its blocks by sample, such as ProgLoRADynamic: with "
            f"num_gates, gate_features, gates and gate_divergence. {type(method).__name__} offers none"
        )
    return method


def _features(method: RoutesBySample, source: SampleSource, rows: list[int]) -> Tensor:
    """What the gates of rows of a split are computed from: (n, d) on the CPU."""
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    found = [method.gate_features([source.sample(row) for row in chunk]).cpu() for chunk in chunks]
    return torch.cat(found)
