"""ProjectedMethod: what trains moves only across the subspaces that its inputs of earlier tasks lie in.

A parameter whose rows meet inputs x as a product, y = theta x, gives old inputs the same output as long as
its changes are orthogonal to them. After a stage the inputs of each such parameter are collected from
training samples, and a basis of the subspace that holds most of them is extended (`subspace.extended`). It
is stored as V (d, k), and never as V V^T, which for the widest layer of a 7B model is half a gigabyte.

What is projected is `projects`:

* `step`: what the optimizer has done, weight decay included: theta moves by (I - V V^T) times the step.
* `gradients`: the gradient, as published for SGD. Under AdamW that leaves the subspace: every element is
  divided by a size of its own, and weight decay acts besides. It is done before clipping, not after it as
  in the published code; that changes what the norm to be clipped is, and no direction.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lit_cvit.adapters import routing
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, SampleSource
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.calibration import dealt_batches
from lit_cvit.methods.pgp.subspace import extended, without
from lit_cvit.utils.distributed import gathered
from lit_cvit.utils.settings import AtLeastOne

Rows = dict[str, list[Tensor]]


class Projected(NamedTuple):
    """A parameter that is projected along its last dimension, and the share of its inputs' energy to hold."""

    parameter: nn.Parameter
    energy: float


class ProjectedMethod(ContinualMethod, ABC):
    """A method some of whose parameters move across the subspaces of earlier inputs alone.

    Args:
        backbone: The pre-trained model.
        projects: The optimizer's `step`, or the `gradients`.
        feature_samples: Training samples of a stage whose inputs are collected.
        feature_rows: Inputs of each, evenly spaced over its positions.
        kwargs: Settings of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("projects", "feature_samples", "feature_rows")

    def __init__(
        self,
        backbone: Backbone,
        projects: Literal["step", "gradients"] = "step",
        feature_samples: AtLeastOne = 128,
        feature_rows: AtLeastOne = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.projects, self.feature_samples, self.feature_rows = projects, feature_samples, feature_rows
        self.bases: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @abstractmethod
    def projected(self) -> dict[str, Projected]:
        """What is projected, by names that do not change."""

    @abstractmethod
    def collecting(self, batch: Batch, rows: Rows) -> contextlib.AbstractContextManager[None]:
        """Append to `rows` the (n, d) inputs of what is projected, by its name, while the block runs."""

    @property
    def training_copies(self) -> int:
        """At most one: where the step began."""
        return 1 if self.projects == "step" else 0

    def apply_plan(self, plan: Plan) -> None:
        super().apply_plan(plan)
        for name, (parameter, _) in self.projected().items():
            if name not in self.bases:
                self.bases[name] = torch.zeros(parameter.shape[-1], 0, device=parameter.device)

    # -- steps ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def on_gradients(self, step: int) -> None:
        self._before = {}
        for name, parameter, basis in self._bound():
            if self.projects == "step":
                self._before[name] = parameter.detach().clone()
            elif parameter.grad is not None:
                parameter.grad.copy_(without(parameter.grad, basis))

    @torch.no_grad()
    def on_update(self, step: int) -> None:
        before, self._before = self._before, {}
        for name, parameter, basis in self._bound() if before else ():
            start = before[name]
            parameter.copy_(start + without(parameter - start, basis))

    def _bound(self) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        for name, (parameter, _) in self.projected().items():
            if self.bases[name].shape[1]:
                self.bases[name] = self.bases[name].to(parameter.device)
                yield name, parameter, self.bases[name]

    # -- bases ----------------------------------------------------------------------------------------------

    def end_stage(self, stage: Stage) -> None:
        assert stage.task.train is not None
        with self.between_stages():
            rows = self._inputs(stage.task.train)
            for name, (parameter, energy) in self.projected().items():
                # One at a time: every rank gets the inputs that all have seen.
                found = dict(pair for part in gathered(rows.pop(name)) for pair in part)
                if found:
                    inputs = torch.cat([found[number] for number in sorted(found)]).to(parameter.device)
                    self.bases[name] = extended(self.bases[name].to(parameter.device), inputs, energy)

    @torch.no_grad()
    def _inputs(self, source: SampleSource) -> dict[str, list[tuple[int, Tensor]]]:
        """Inputs by name, on the CPU, as pairs of a sample's number and (n, d); this rank's share."""
        found: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in self.projected()}
        chosen = evenly_spaced(len(source), self.feature_samples)
        for number, batch in dealt_batches(self, source, chosen):
            rows: Rows = {name: [] for name in found}
            with (
                self.trainer.precision_plugin.forward_context(),
                routing(self.context(batch)),
                self.collecting(batch, rows),
            ):
                self.backbone.forward_hidden(batch)
            for name, parts in rows.items():
                # A projector sees nothing of a sample without an image.
                found[name] += [(number, torch.cat([self._some(part) for part in parts]))] if parts else []
        return found

    def _some(self, inputs: Tensor) -> Tensor:
        """Evenly spaced ones of inputs (n, d)."""
        return inputs[evenly_spaced(len(inputs), self.feature_rows)].float().cpu()

    # -- state ----------------------------------------------------------------------------------------------

    def extra_tensors(self) -> dict[str, Tensor]:
        return super().extra_tensors() | {f"basis.{name}": basis for name, basis in self.bases.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in, strictly; the bases have as many directions as the saved ones."""
        for name, basis in self.bases.items():
            saved = tensors.get(f"basis.{name}", basis)
            self.bases[name] = torch.zeros(basis.shape[0], saved.shape[-1], device=basis.device)
        super().load_tensors(tensors)
