"""EWC: what trains is held to its last weights, each element by its Fisher information for the old tasks.

Source: Kirkpatrick et al., arXiv 1612.00796, Eq. 3: L + lambda/2 sum_i F_i (theta_i - theta*_i)^2; a baseline
of SMoLoRA, HiDe-LLaVA, ProgLoRA and LCIA, none of which states a setting. F is the diagonal Fisher
information at the end of a stage (`fisher`), theta* what trains as the last stage left it.

How the information of several tasks is put together is `combine`:

* `online`: gamma F_old + F_new (arXiv 1805.06370); with gamma 1, the sum. The original has an anchor for each
  task beside it, which holds T copies of everything; with the last weights as the only anchor old tasks are
  not counted twice (arXiv 1712.03847).
* `last`: that of the last task alone, as CITB's code does (hyintell/CITB), where each task overwrites it. It
  squares gradients of batches (of 4, hence `fisher_group: 4`; 11 or 51 of them), and leaves out the 1/2, so
  its lambda of 0.01 is `strength: 0.02` here.
* `max`: the largest over tasks, element by element, as CLMM does (arXiv 2311.16206), where that of each task
  is first divided by its sum over all parameters (`scale: sum`), with lambda 1e8.

SMoLoRA's published code has a class for EWC whose information is never taken: its hook does not exist in the
version it pins, and it is set to 0 at each task. That row of the paper is close to SeqLoRA's, as it must be.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import Plan
from lit_cvit.methods.ewc.anchored import AnchoredMethod
from lit_cvit.methods.ewc.fisher import diagonal_fisher
from lit_cvit.utils.settings import AtLeastOne, FromZeroToOne, NotNegative


class EWC(AnchoredMethod):
    """One block per adapted layer, held to its last weights where they matter for old tasks.

    Args:
        backbone: The pre-trained model.
        strength: lambda.
        fisher_samples: Training samples of a stage that its Fisher information is taken over.
        fisher_group: Samples whose mean loss is differentiated at once, see `diagonal_fisher`.
        combine: How the information of tasks is put together.
        gamma: Share of the older information that `online` keeps.
        scale: `sum` divides the information of each task by its sum over all parameters.
        kwargs: Settings of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = (
        "fisher_samples",
        "fisher_group",
        "combine",
        "gamma",
        "scale",
    )
    term: ClassVar[str] = "ewc"

    def __init__(
        self,
        backbone: Backbone,
        strength: NotNegative = 5000.0,
        fisher_samples: AtLeastOne = 128,
        fisher_group: AtLeastOne = 1,
        combine: Literal["online", "last", "max"] = "online",
        gamma: FromZeroToOne = 1.0,
        scale: Literal["none", "sum"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, strength=strength, **kwargs)
        if combine != "online" and gamma != 1:
            raise ValueError(f"model.gamma {gamma} is for combine 'online', got combine {combine!r}")
        self.fisher_samples, self.fisher_group = fisher_samples, fisher_group
        self.combine, self.gamma, self.scale = combine, gamma, scale
        self.importance: dict[str, Tensor] = {}

    @property
    def factor(self) -> float:
        """lambda / 2."""
        return self.strength / 2

    @property
    def training_copies(self) -> int:
        """The anchors and the information."""
        return 2

    def importance_of(self, name: str) -> Tensor | None:
        return self.importance[name]

    def apply_plan(self, plan: Plan) -> None:
        # They are there from the first stage on, so that what is saved of a stage finds its place.
        for name, parameter in self.adapters.trained().items():
            if name not in self.importance:
                self.importance[name] = torch.zeros_like(parameter, dtype=torch.float32)

    def end_stage(self, stage: Stage) -> None:
        self._held = []
        assert stage.task.train is not None
        fresh = diagonal_fisher(
            self, stage.task.train, num_samples=self.fisher_samples, group=self.fisher_group
        )
        if self.scale == "sum":
            total = torch.stack([value.double().sum() for value in fresh.values()]).sum()
            fresh = {name: (value / total.clamp(min=1e-30)).float() for name, value in fresh.items()}
        self.importance = {
            name: self.combined(name, self.importance[name].to(value.device), value)
            for name, value in fresh.items()
        }

    def combined(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        """The information of all tasks, from that of the older ones and of the newest."""
        if self.combine == "max":
            return torch.maximum(old, new)
        return new if self.combine == "last" else self.gamma * old + new

    def extra_tensors(self) -> dict[str, Tensor]:
        return {f"fisher.{name}": value for name, value in self.importance.items()}
