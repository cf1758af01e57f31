"""MethodHooks: what a method may say and do, each hook with its default; the base calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import lightning as L
from torch import Tensor, nn

from lit_cvit.adapters import LoRABank, Target
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Task
from lit_cvit.methods.access import DataAccess
from lit_cvit.utils.renamed import refuse_old_hooks
from lit_cvit.utils.settings import CheckedSettings

Plan = dict[str, Any]
# Names that hooks had before, and those they have now.
RENAMED = {"knows": "access", "know_tasks": "set_tasks"}
# Reasons for `sharding_unsupported_reason`.
READS_FROZEN_WEIGHTS = "it reads the frozen weights of the layers outside of forward passes"


class MethodHooks(CheckedSettings, L.LightningModule):
    """What a subclass of `ContinualMethod` overrides; nothing has to be called through `super()`.

    Attributes:
        bank_class: Class of the banks that `make_bank` builds.
        rank: Total rank of the adapter of a layer.
        alpha: LoRA's alpha.
        dropout: Dropout on the adapters' input.
        train_mode: Whether `adapters` train or the `full` weights; `train` is torch's name of another thing.
        num_plans: Plans of stages that were followed.
    """

    bank_class: ClassVar[type[LoRABank]] = LoRABank
    settings_prefix: ClassVar[str] = "model."
    rank: int
    alpha: float
    dropout: float
    train_mode: Literal["adapters", "full"]
    num_plans: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old_hooks(cls, RENAMED)

    # -- what a method says of itself -----------------------------------------------------------------------

    @property
    def access(self) -> DataAccess:
        """What the configured method reads; printed, and enforced where the data module can."""
        return DataAccess()

    @property
    def encoders_at_test(self) -> tuple[str, ...]:
        """Those of the encoders of `access` that answers depend on, and not only training."""
        return self.access.encoders

    @property
    def trains(self) -> bool:
        """False for a method without any training stage."""
        return True

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """Names of callback classes without which the configured method is not itself; a subclass will do."""
        return ()

    @property
    def training_copies(self) -> int:
        """Copies of what trains, in float32, that the method holds while it trains; for the memory plan."""
        return 0

    @property
    def sharding_unsupported_reason(self) -> str:
        """Why the configured method cannot have a decoder in shards; empty where it can.

        It can where frozen weights are read in forward passes alone, and where the ranks make the same passes
        in training, or others in `Backbone.in_lockstep`.
        """
        return ""

    @property
    def frozen_words(self) -> str:
        """How much of the backbone stays as loaded, for people; a projector trains as a copy."""
        return "frozen" if self.train_mode == "adapters" else "frozen but for decoder and output head"

    @property
    def is_new(self) -> bool:
        """True until the first plan is followed; a run that starts from another one has no new method."""
        return self.num_plans == 0

    # -- stages ---------------------------------------------------------------------------------------------

    def set_tasks(self, tasks: tuple[Task, ...]) -> None:
        """The tasks of the run, before it begins; for methods that may read the task of a sample."""

    def plan_stage(self, stage: Stage) -> Plan:
        """Decide what a stage changes in the model, as plain JSON.

        Keys the base applies: `new_blocks` (ranks of blocks to add to every bank), `freeze_blocks` (whether
        older blocks freeze), `new_projector` (whether a projector copy is added, `projector: full` only),
        `projector_copy` (key of the copy that `projector_carry` starts anew; the newest by default).
        """
        blocks = [self.rank] if self.is_new and self.train_mode == "adapters" else []
        return {"new_blocks": blocks, "new_projector": self.is_new}

    def growth(self, stage: Stage) -> Plan:
        """The keys of `plan_stage` that the base applies, for the memory plan: no weights are loaded yet.

        To be overridden where `plan_stage` reads the model; an upper bound will do.
        """
        return self.plan_stage(stage)

    def apply_plan(self, plan: Plan) -> None:
        """Follow the further keys of a plan, after the base has followed its own."""

    def end_stage(self, stage: Stage) -> None:
        """Called when a stage's training is over and before it is saved."""

    # -- batches --------------------------------------------------------------------------------------------

    def observe(self, batch: Batch) -> None:
        """Take statistics of a training batch, before its step and without gradients.

        Called for every micro-batch of every epoch. A statistic over ranks is to be summed explicitly.
        """

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        """Facts per sample that the adapters read, computed once per batch; their first dimension is S.

        The key `gate` is the gate of every bank: (blocks,) or (S, blocks); without it all blocks have
        weight 1. One on the CPU is looked at, and blocks that no sample uses cost nothing. The key
        `projector` is the (S,) projector copy of each sample (`projector: full` only).
        """
        return {}

    def bank_gates(self, batch: Batch) -> dict[str, Tensor]:
        """Gates by bank, where they differ between banks; they come before the fact `gate`."""
        return {}

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        """Loss terms beside the language-model loss, by name; logged as `loss/<name>`."""
        return {}

    # -- optimizer steps ------------------------------------------------------------------------------------

    def on_gradients(self, step: int) -> None:
        """Change the gradients of a step of the stream: accumulated, averaged over ranks, not yet clipped.

        The gradient of a term on parameters alone is added here, once per step; `log_step_term` logs it.
        """

    def on_update(self, step: int) -> None:
        """Change what the optimizer has done to the parameters in a step of the stream."""

    # -- parts and state ------------------------------------------------------------------------------------

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        """Build the bank around one layer."""
        return self.bank_class(
            base,
            name,
            kind=target.kind,
            scaling=self.alpha / self.rank,
            dropout=self.dropout,
            default_gate="ones",
        )

    def extra_tensors(self) -> dict[str, Tensor]:
        """Tensors to save beside adapters and projectors; loading copies into them in place."""
        return {}

    def method_state(self) -> dict[str, Any]:
        """Further state, plain JSON."""
        return {}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `method_state` gave."""
