"""ContinualMethod: what every method shares, so that a method is one short file.

The base owns the adapters, the language-model loss and its normalisation, the sum of loss terms, optimizer
and schedule, and generation. A subclass overrides a few hooks, which `lit_cvit.methods.hooks` lists.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters import (
    MergedBanks,
    RoutingContext,
    checkpoint_context_fn,
    joined,
    routing,
    used_blocks,
)
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.outputs import LossOutput
from lit_cvit.data.sampling import mix
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.adapter_set import PROJECTOR, AdapterSet, ProjectorCarry, ProjectorMode
from lit_cvit.methods.full_weights import FullWeights, require_trainable
from lit_cvit.methods.hooks import Plan
from lit_cvit.methods.optim import OptimizerSettings
from lit_cvit.methods.state import StoredMethod
from lit_cvit.utils.settings import AtLeastOne, BelowOne

LossTerm = Callable[["ContinualMethod", Batch, LossOutput], Tensor]


class ContinualMethod(StoredMethod):
    """A continual-learning algorithm over a frozen backbone with adapters.

    Args:
        backbone: The pre-trained model.
        rank: Total rank of the adapter of a layer, over all its blocks that one sample can use.
        alpha: LoRA's alpha; the adapter's output is scaled by alpha / rank.
        dropout: Dropout on the adapters' input.
        targets: Groups of layers that carry adapters: any of `ffn`, `attention`, `projector`.
        projector: `lora` adapts the projector like any other target; `full` trains a copy of it as a whole;
            `frozen` leaves it alone. With `full` or `frozen`, `projector` in `targets` has no effect.
        train: `adapters`, or `full`: the weights of decoder and output head themselves, and the projector as
            a whole unless it is `frozen`. The settings of adapters then have no effect. Not every method can.
        projector_carry: What a fully trained projector starts a stage from: the last stage (`keep`), the
            pre-trained weights, or random ones.
        optimizer: Rates, schedule and decay.
        loss_reduction: `step` divides the sum of the token losses by the answer tokens of the whole
            optimizer step, over micro-batches and ranks; `micro_batch` is the usual mean of means.
        unrouted: Whether a block that a step did not use stays as it is (`hold`) or may be moved by momentum
            and weight decay (`drift`).

    Raises:
        ValueError: a setting does not fit its type hint; here and in every subclass, before it is built. Or
            `train` is `full`, and the method needs adapters or the backbone's weights have below 32 bits.
    """

    # What `train` may be.
    train_modes: ClassVar[tuple[str, ...]] = ("adapters",)
    # What training alone reads.
    free_settings: ClassVar[tuple[str, ...]] = (
        "dropout",
        "projector_carry",
        "optimizer",
        "loss_reduction",
        "unrouted",
    )

    def __init__(
        self,
        backbone: Backbone,
        rank: AtLeastOne = 128,
        alpha: float = 256,
        dropout: BelowOne = 0.0,
        targets: tuple[Literal["ffn", "attention", "projector"], ...] = ("ffn", "projector"),
        projector: ProjectorMode = "lora",
        projector_carry: ProjectorCarry = "keep",
        optimizer: OptimizerSettings | None = None,
        loss_reduction: Literal["step", "micro_batch"] = "step",
        unrouted: Literal["hold", "drift"] = "hold",
        train: Literal["adapters", "full"] = "adapters",
    ) -> None:
        super().__init__()
        self.train_mode = train
        self.backbone = backbone
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.projector, self.projector_carry = tuple(targets), projector, projector_carry
        self.settings = optimizer or OptimizerSettings()
        self.loss_reduction = loss_reduction
        self.adapters = (AdapterSet if train == "adapters" else FullWeights)(projector_carry, unrouted)
        self.stage: Stage | None = None
        self.num_plans = 0
        self._num_backbone_parameters = 0
        self._loss_terms: dict[str, LossTerm] = {}
        self._step_terms: dict[str, Tensor] = {}
        self._merged: MergedBanks | None = None
        # Checkpoints hold what trains alone; `on_load_checkpoint` loads that strictly.
        self.strict_loading = False
        if train == "full":
            require_trainable(type(self).__name__, backbone, self.train_modes, self._of_adapters())
            self.projector = "frozen" if projector == "frozen" else "full"
        if projector_carry != "keep" and self.projector != "full":
            reason = f"on a projector that does not train as a whole (projector: {projector})"
            warnings.warn(f"model.projector_carry has no effect {reason}", stacklevel=2)

    @property
    def adapted_groups(self) -> tuple[str, ...]:
        """Groups of layers that get banks."""
        chosen = tuple(g for g in self.targets if g != PROJECTOR or self.projector == "lora")
        return chosen if self.trains and self.train_mode == "adapters" else ()

    def _of_adapters(self) -> dict[str, tuple[Any, Any]]:
        """The settings that are of adapters alone: their values and defaults."""
        parameters = inspect.signature(ContinualMethod.__init__).parameters
        names = ("rank", "alpha", "dropout", "targets")
        return {name: (getattr(self, name), parameters[name].default) for name in names}

    # -- building -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load the backbone and put the banks in; a second call does nothing."""
        if self.adapters.injected:
            return
        self.backbone.load()
        self._num_backbone_parameters = self.backbone.model.num_parameters()
        copies_projector = self.projector == "full" and self.trains
        self.adapters.inject(
            self.backbone, self.adapted_groups, self.make_bank, copies_projector=copies_projector
        )

    def follow_plan(self, plan: Plan) -> None:
        """Change the model as a plan says; loading and resuming follow the stored plans in order."""
        self.adapters.grow(plan)
        self.apply_plan(plan)
        self.num_plans += 1

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

    # -- running --------------------------------------------------------------------------------------------

    def context(self, batch: Batch) -> RoutingContext:
        """The routing context of one forward pass over `batch`."""
        newest = self.adapters.newest_copy(len(batch), batch.prompt_mask.device)
        facts = {**newest, **self.sample_facts(batch)}
        gate = facts.pop("gate", None)
        return RoutingContext(
            num_samples=len(batch),
            gate=None if gate is None else gate.to(batch.prompt_mask.device),
            used=None if gate is None else used_blocks(gate),
            facts=facts,
            gates=self.bank_gates(batch),
            prompt_mask=batch.prompt_mask,
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

    @torch.no_grad()
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let the method take its statistics."""
        self.observe(batch)

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

    def log_step_term(self, name: str, value: Tensor) -> None:
        """Log a term of the whole step, equal on all ranks, whose gradient `on_gradients` has added."""
        self._step_terms[name] = value.detach().reshape(())

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

    def once_per_step(self, batch: Batch, penalty: Callable[[], Tensor]) -> Tensor:
        """A loss term of the parameters alone, which counts once in an optimizer step.

        It is computed with the last micro-batch of the step, in full precision, and is zero with the others.
        All ranks compute the same, of which DDP takes the mean.
        """
        if batch.place is not None and not batch.place.ends_step:
            return torch.zeros((), device=batch.prompt_mask.device)
        with torch.autocast(batch.prompt_mask.device.type, enabled=False):
            # Lightning divides every micro-batch's loss by the accumulation.
            return penalty() * self.trainer.accumulate_grad_batches

    def _touch(self) -> Tensor:
        """Zero, but with every trainable parameter in its graph, so DDP never waits for an unused one."""
        used = [p.reshape(-1)[:1] for p in self.parameters() if p.requires_grad]
        return 0.0 * torch.cat(used).sum()

    @contextlib.contextmanager
    def between_stages(self) -> Iterator[None]:
        """Have the method on its device and without dropout, for passes over samples in `end_stage`.

        A fit leaves the model on the CPU. The trainer's `precision_plugin.forward_context` is for each pass.
        """
        dropouts = [module for module in self.modules() if isinstance(module, nn.Dropout) and module.training]
        self.to(self.trainer.strategy.root_device)
        try:
            for module in dropouts:
                module.eval()
            yield
        finally:
            for module in dropouts:
                module.train()

    @contextlib.contextmanager
    def merging(self) -> Iterator[None]:
        """Inside the block `generate` adds each bank that a batch has one gate for into its layer's weight.

        The weights are as they were after it, bit for bit, also after an error; until then they must not be
        saved. Adapters must not change inside. See `MergedBanks` for what it costs.
        """
        self._merged = MergedBanks(self.banks.values())
        try:
            yield
        finally:
            self._merged.restore()
            self._merged = None

    @torch.no_grad()
    def generate(self, batch: Batch, *, max_new_tokens: int) -> list[str]:
        """Answers to a batch encoded without answers; greedy."""
        context = self.context(batch)
        if self._merged is not None:
            self._merged.follow(context)
        with routing(context), joined(bank for bank in self.banks.values() if not bank.merged):
            return self.backbone.generate(
                batch, max_new_tokens=max_new_tokens, on_drop=context.select_samples
            )

    # -- Lightning ------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """A fresh optimizer and schedule for the current stage."""
        assert self.stage is not None
        projector = [p for p in self.backbone.projector.parameters() if p.requires_grad]
        apart = {id(p) for p in projector}
        decoder = [p for p in self.parameters() if p.requires_grad and id(p) not in apart]
        return self.settings.build(decoder, projector, num_steps=self.stage.num_steps)
