"""ContinualMethod: what every method shares, so that a method is one short file.

The base owns injection of adapters, the language-model loss and its normalisation, the sum of loss terms,
optimizer and schedule, generation, and the method's state. A subclass overrides a few hooks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from lit_cvit.adapters import (
    LoRABank,
    ProjectorBank,
    RoutingContext,
    Target,
    adapter_state,
    checkpoint_context_fn,
    grow,
    hold_unrouted,
    inject,
    joined,
    load_strict,
    reinitialise,
    routing,
    trainable_blocks,
)
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Task
from lit_cvit.methods.access import DataAccess
from lit_cvit.methods.optim import OptimizerSettings

Plan = dict[str, Any]
LossTerm = Callable[["ContinualMethod", Batch, LossOutput], Tensor]
_PROJECTOR = "projector"


class ContinualMethod(L.LightningModule):
    """A continual-learning algorithm over a frozen backbone with adapters.

    Hooks for subclasses: `plan_stage`, `apply_plan`, `end_stage`, `make_bank`, `sample_facts`, `loss_terms`,
    `on_gradients`, `on_update`, `extra_tensors`, `method_state` and `load_method_state`, and the properties
    `access`, `requires_callbacks` and `trains`. None of them has to be called through `super()`.

    Args:
        backbone: The pre-trained model.
        rank: Total rank of the adapter of a layer, over all its blocks that one sample can use.
        alpha: LoRA's alpha; the adapter's output is scaled by alpha / rank.
        dropout: Dropout on the adapters' input.
        targets: Groups of layers that carry adapters: any of `ffn`, `attention`, `projector`.
        projector: `lora` adapts the projector like any other target; `full` trains a copy of it as a whole;
            `frozen` leaves it alone. With `full` or `frozen`, `projector` in `targets` has no effect.
        projector_carry: What a fully trained projector starts a stage from: the last stage (`keep`), the
            pre-trained weights, or random ones.
        optimizer: Rates, schedule and decay.
        loss_reduction: `step` divides the sum of the token losses by the answer tokens of the whole
            optimizer step, over micro-batches and ranks; `micro_batch` is the usual mean of means.
        unrouted: Whether a block that a step did not use stays as it is (`hold`) or may be moved by momentum
            and weight decay (`drift`).
    """

    def __init__(
        self,
        backbone: Backbone,
        rank: int = 128,
        alpha: float = 256,
        dropout: float = 0.0,
        targets: tuple[Literal["ffn", "attention", "projector"], ...] = ("ffn", "projector"),
        projector: Literal["lora", "full", "frozen"] = "lora",
        projector_carry: Literal["keep", "reset_pretrained", "reinit_random"] = "keep",
        optimizer: OptimizerSettings | None = None,
        loss_reduction: Literal["step", "micro_batch"] = "step",
        unrouted: Literal["hold", "drift"] = "hold",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.backbone = backbone
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.projector, self.projector_carry = tuple(targets), projector, projector_carry
        self.settings = optimizer or OptimizerSettings()
        self.loss_reduction, self.unrouted = loss_reduction, unrouted
        self.banks: dict[str, LoRABank] = {}
        self.projector_bank: ProjectorBank | None = None
        self.stage: Stage | None = None
        self.num_plans = 0
        self._num_backbone_parameters = 0
        self._loss_terms: dict[str, LossTerm] = {}
        self._frozen_digest = ""
        self._step_terms: dict[str, Tensor] = {}
        # Checkpoints hold what trains alone; `on_load_checkpoint` loads that strictly.
        self.strict_loading = False
        if projector_carry != "keep" and projector != "full":
            reason = f"on a projector that does not train as a whole (projector: {projector})"
            warnings.warn(f"model.projector_carry has no effect {reason}", stacklevel=2)

    # -- what a method says of itself -----------------------------------------------------------------------

    @property
    def access(self) -> DataAccess:
        """What the configured method reads; printed, and enforced where the data module can."""
        return DataAccess()

    @property
    def trains(self) -> bool:
        """False for a method without any training stage."""
        return True

    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        """Names of callback classes without which the configured method is not itself."""
        return ()

    @property
    def is_new(self) -> bool:
        """True until the first plan is followed; a run that starts from another one has no new method."""
        return self.num_plans == 0

    @property
    def adapted_groups(self) -> tuple[str, ...]:
        """Groups of layers that get banks."""
        chosen = tuple(g for g in self.targets if g != _PROJECTOR or self.projector == "lora")
        return chosen if self.trains else ()

    # -- hooks ----------------------------------------------------------------------------------------------

    def plan_stage(self, stage: Stage) -> Plan:
        """Decide what a stage changes in the model, as plain JSON.

        Keys the base applies: `new_blocks` (ranks of blocks to add to every bank), `freeze_blocks` (whether
        older blocks freeze), `new_projector` (whether a projector copy is added, `projector: full` only),
        `projector_copy` (key of the copy that `projector_carry` starts anew; the newest by default).
        """
        return {"new_blocks": [self.rank] if self.is_new else [], "new_projector": self.is_new}

    def growth(self, stage: Stage) -> Plan:
        """The keys of `plan_stage` that the base applies, for the memory plan: no weights are loaded yet.

        To be overridden where `plan_stage` reads the model; an upper bound will do.
        """
        return self.plan_stage(stage)

    def apply_plan(self, plan: Plan) -> None:
        """Follow the further keys of a plan, after the base has followed its own."""

    def end_stage(self, stage: Stage) -> None:
        """Called when a stage's training is over and before it is saved."""

    def set_tasks(self, tasks: tuple[Task, ...]) -> None:
        """The tasks of the run, before it begins; for methods that may read the task of a sample."""

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        """Build the bank around one layer."""
        return LoRABank(
            base,
            name,
            kind=target.kind,
            scaling=self.alpha / self.rank,
            dropout=self.dropout,
            default_gate="ones",
        )

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        """Facts per sample that the adapters read, computed once per batch.

        The key `gate` is the gate of every bank: (blocks,) or (S, blocks); without it all blocks have
        weight 1. The key `projector` is the (S,) projector copy of each sample (`projector: full` only).
        """
        return {}

    def loss_terms(self, batch: Batch, outputs: LossOutput) -> dict[str, Tensor]:
        """Loss terms beside the language-model loss, by name; logged as `loss/<name>`."""
        return {}

    def on_gradients(self, step: int) -> None:
        """Change the gradients of a step of the stream: accumulated, averaged over ranks, not yet clipped."""

    def on_update(self, step: int) -> None:
        """Change what the optimizer has done to the parameters in a step of the stream."""

    def extra_tensors(self) -> dict[str, Tensor]:
        """Tensors to save beside adapters and projectors; loading copies into them in place."""
        return {}

    def method_state(self) -> dict[str, Any]:
        """Further state, plain JSON."""
        return {}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `method_state` gave."""

    # -- building -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load the backbone and put the banks in; a second call does nothing."""
        if self._frozen_digest:
            return
        self.backbone.load()
        self._num_backbone_parameters = self.backbone.model.num_parameters()
        named = self.backbone.linear_targets(self.adapted_groups)
        targets = {name: Target(target.path, target.kind) for name, target in named.items()}
        self.banks = inject(self.backbone.model, targets, self.make_bank)
        if self.projector == "full" and self.trains:
            self.projector_bank = ProjectorBank(self.backbone.projector)
            parent, _, leaf = self.backbone.projector_path.rpartition(".")
            setattr(self.backbone.model.get_submodule(parent), leaf, self.projector_bank)
        self._frozen_digest = self.backbone.digest_frozen()

    def follow_plan(self, plan: Plan) -> None:
        """Change the model as a plan says; loading and resuming follow the stored plans in order."""
        self._grow(plan)
        self.apply_plan(plan)
        self.num_plans += 1

    def _grow(self, plan: Plan) -> None:
        generator = torch.Generator().manual_seed(plan["seed"])
        grow(self.banks.values(), self.projector_bank, plan, generator)
        restarts = self.projector_carry != "keep" and not plan.get("new_projector")
        if self.projector_bank is not None and restarts:
            self._restart_projector(self.projector_bank, plan.get("projector_copy", -1), generator)

    def _restart_projector(self, bank: ProjectorBank, key: int, generator: torch.Generator) -> None:
        copy = bank.copies[key]
        if self.projector_carry == "reset_pretrained":
            load_strict(copy.state_dict(), bank.base.state_dict())
        else:
            reinitialise(copy, generator)

    def begin_stage(self, stage: Stage, planned: Plan | None = None) -> Plan:
        """Plan a stage and follow the plan; returns it with the seed that its random draws use.

        Args:
            stage: The stage.
            planned: The plan of an earlier attempt that is continued: nothing is decided twice.
        """
        plan = planned or {**self.plan_stage(stage), "seed": stage.mixed_seed("adapter")}
        self.follow_plan(plan)
        self.backbone.checkpoint_activations(checkpoint_context_fn)
        self.stage = stage
        return plan

    # -- state ----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that make the method what it is, by canonical name; they share the method's memory."""
        state = adapter_state(self.banks)
        if self.projector_bank is not None:
            copies = self.projector_bank.copies.state_dict()
            state |= {f"{_PROJECTOR}.copies.{name}": value for name, value in copies.items()}
        return state | self.extra_tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in, strictly.

        Raises:
            ValueError: a tensor is missing, unexpected or of another shape.
        """
        load_strict(self.tensors(), tensors)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep of the model only what makes the method what it is, and say which stage it is in."""
        assert self.stage is not None
        checkpoint["stage"] = self.stage.number
        checkpoint["state_dict"] = {name: tensor.detach() for name, tensor in self.tensors().items()}
        checkpoint["method_state"] = self.method_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` kept, strictly; Lightning then finds nothing left to load."""
        self.load_tensors(checkpoint["state_dict"])
        self.load_method_state(checkpoint["method_state"])
        checkpoint["state_dict"] = {}

    def check_frozen(self) -> None:
        """Prove that the backbone is bit for bit what was loaded.

        Raises:
            RuntimeError: it is not.
        """
        if self.backbone.digest_frozen() != self._frozen_digest:
            raise RuntimeError(
                "the frozen backbone changed during training; its weights no longer match what was loaded"
            )

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by role: `trainable` now, `stored` in the state, and of the `backbone`."""
        return {
            "trainable": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "stored": sum(tensor.numel() for tensor in self.tensors().values()),
            "backbone": self._num_backbone_parameters,
        }

    # -- running --------------------------------------------------------------------------------------------

    def context(self, batch: Batch) -> RoutingContext:
        """The routing context of one forward pass over `batch`."""
        facts = self.sample_facts(batch)
        gate = facts.pop("gate", None)
        if self.projector_bank is not None and _PROJECTOR not in facts:
            last = len(self.projector_bank.copies) - 1
            facts[_PROJECTOR] = torch.full((len(batch),), last, device=batch.prompt_mask.device)
        return RoutingContext(
            num_samples=len(batch),
            facts=facts,
            gate=gate,
            prompt_mask=batch.prompt_mask,
            valid_mask=batch.inputs["attention_mask"].bool(),
            row_to_sample=self.backbone.row_maps(batch),
        )

    def add_loss_term(self, name: str, term: LossTerm) -> None:
        """Add a callback's loss term under a key; adding it again (every stage sets up anew) replaces it.

        Raises:
            ValueError: the name is that of the language-model loss.
        """
        if name == "lm":
            raise ValueError("the loss term name 'lm' is taken by the language-model loss")
        self._loss_terms[name] = term

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro-batch: the language-model loss and all further terms."""
        self._seed_micro_batch(batch_idx)
        terms = self.terms(batch)
        for name, value in terms.items():
            self.log(f"loss/{name}", value.detach(), on_step=True, on_epoch=False)
            part = value.detach().reshape(()) / self.trainer.accumulate_grad_batches
            self._step_terms[name] = self._step_terms.get(name, torch.zeros_like(part)) + part
        loss = torch.stack([value.reshape(()) for value in terms.values()]).sum()
        return loss + self._touch()

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """All loss terms of a micro-batch by name: `lm`, the method's own, and those of callbacks."""
        with routing(self.context(batch)):
            outputs = self.backbone.loss(batch)
            terms = {"lm": self._language_loss(batch, outputs), **self.loss_terms(batch, outputs)}
            return terms | {name: term(self, batch, outputs) for name, term in self._loss_terms.items()}

    def take_step_terms(self) -> dict[str, Tensor]:
        """The loss terms of this rank since the last call, as the optimizer step adds them up."""
        terms, self._step_terms = self._step_terms, {}
        return terms

    def _seed_micro_batch(self, batch_idx: int) -> None:
        # Dropout is a function of the place in the stream alone, so neither an evaluation, nor a resume, nor
        # an earlier run in the same process changes it.
        assert self.stage is not None
        place = (self.stage.seed, self.stage.number, self.trainer.current_epoch, batch_idx)
        torch.manual_seed(mix("dropout", *place, self.trainer.global_rank))

    def _language_loss(self, batch: Batch, outputs: LossOutput) -> Tensor:
        if self.loss_reduction == "micro_batch":
            return outputs.loss_sum / max(1, outputs.num_tokens)
        return self.share_of_step(outputs.loss_sum, batch.step_tokens)

    def share_of_step(self, total: Tensor, count: int, *, weight: float = 1.0) -> Tensor:
        """A micro-batch's part of a term: `weight` times the sum of the step's totals, divided by `count`."""
        # Lightning divides by the accumulation, also in an epoch's short last step, and DDP by the ranks.
        return total * (weight * self.trainer.accumulate_grad_batches * self.trainer.world_size / count)

    def _touch(self) -> Tensor:
        """Zero, but with every trainable parameter in its graph, so DDP never waits for an unused one."""
        used = [p.reshape(-1)[:1] for p in self.parameters() if p.requires_grad]
        return 0.0 * torch.cat(used).sum()

    @torch.no_grad()
    def generate(self, batch: Batch, *, max_new_tokens: int) -> list[str]:
        """Answers to a batch encoded without answers; greedy."""
        with routing(self.context(batch)), joined(self.banks.values()):
            return self.backbone.generate(batch, max_new_tokens=max_new_tokens)

    # -- Lightning ------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """A fresh optimizer and schedule for the current stage."""
        assert self.stage is not None
        projector = [p for p in self.backbone.projector.parameters() if p.requires_grad]
        apart = {id(p) for p in projector}
        decoder = [p for p in self.parameters() if p.requires_grad and id(p) not in apart]
        return self.settings.build(decoder, projector, num_steps=self.stage.num_steps)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the blocks that this step did not use as they are, and a projector that saw no image."""
        if self.unrouted == "hold":
            hold_unrouted([*trainable_blocks(self.banks.values()), *self._projector_groups()])

    def _projector_groups(self) -> list[tuple[nn.Parameter, ...]]:
        copies = self.projector_bank.copies if self.projector_bank is not None else ()
        groups = [tuple(p for p in copy.parameters() if p.requires_grad) for copy in copies]
        # A router's fusion vectors have no gradient while B = 0, so they are unused only with all blocks.
        routed = [bank for bank in self.banks.values() if bank.kind == _PROJECTOR and bank.router is not None]
        groups += [tuple(p for p in bank.parameters() if p.requires_grad) for bank in routed]
        return [group for group in groups if group]
