"""DynamicEMA: what a stage keeps is a moving average of its parameters, with LCIA's dynamic weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from lit_cvit.analysis.ema import (
    Groups,
    clamp_or_fallback,
    follow,
    layers_of,
    official_share,
    paper_share,
)
from lit_cvit.analysis.layers import by_layer
from lit_cvit.data.stage import Stage
from lit_cvit.methods.base import ContinualMethod
from lit_cvit.stream.stage_callback import StageCallback, StreamTrainer
from lit_cvit.utils.parts import in_parts
from lit_cvit.utils.settings import BelowOne

Tensors = dict[str, Tensor]


class DynamicEMA(StageCallback):
    """Lets an average theta* follow the parameters theta of a stage, and keeps theta* at the stage's end.

    What: theta* <- beta theta* + (1 - beta) theta after each optimizer step, for every tensor that trains, in
    float32. beta is LCIA's, from the gradients and the path length (`lit_cvit.analysis.ema`); where that
    leaves (0, 1), and at a stage's first step, it is `fallback`.

    When: the gradient is the one the optimizer uses, accumulated and averaged over ranks, before any
    clipping; the update comes after the step. theta trains on untouched. At the stage's end, before the stage
    is saved, theta* takes its place. `with callback.averaged(method):` evaluates theta* inside a stage. The
    log has, for every decoder layer and the projector, the mean beta (`ema/beta/decoder.0`) and the share of
    dynamic weights in the step (`ema/dynamic`); the stage's manifest has that share over the whole stage.

    Caveats: the published formula depends on scale. 1 - beta falls with the size of a tensor, and on small
    ones (the tiny backbone, low ranks) it exceeds 1 at most steps: then the average is a constant one, which
    `ema/dynamic` shows. With a constant 0.99 and fewer than some hundred steps, theta* stays near where the
    stage began. It costs two float32 copies of what trains, three during a step with `beta: paper`.

    Example::

        model:
          class_path: SMoLoRA
        trainer:
          callbacks:
          - class_path: DynamicEMA
            init_args: {beta: official, ema_when: reused}

    Args:
        beta: `official` as in the published code, `paper` for Eq. 45, or a constant in [0, 1) (Stable EMA).
        beta_per: One beta for each `tensor` (the code), or for each `layer` (the paper): a block's A and B,
            a linear layer's weight and bias.
        theta0: theta* starts a stage from the parameters as the stage found them, the `group`'s own, or from
            those `after_first_step` (the code), which forgets the former.
        ema_when: `reused` averages in stages that train on what an earlier stage has trained, thus add no
            block and no projector; `always` in all stages (the paper's Algorithm 1).
        fallback: The beta where there is no dynamic one.
    """

    def __init__(
        self,
        beta: Literal["official", "paper"] | BelowOne = "official",
        beta_per: Literal["tensor", "layer"] = "tensor",
        theta0: Literal["group", "after_first_step"] = "group",
        ema_when: Literal["reused", "always"] = "reused",
        fallback: BelowOne = 0.99,
    ) -> None:
        super().__init__()
        self.beta, self.beta_per, self.theta0, self.ema_when = beta, beta_per, theta0, ema_when
        self.fallback = fallback
        self._constant = None if isinstance(beta, str) else float(beta)
        self.active = False
        self.shares: dict[str, float] = {}
        self._forget()

    def _forget(self) -> None:
        """Drop what belongs to one stage."""
        self._parameters: dict[str, nn.Parameter] = {}
        self._average: Tensors = {}
        self._previous: Tensors = {}
        self._change: Tensors = {}
        self._measured: dict[str, tuple[Tensor, ...]] = {}
        # On the device of what trains: reading it at every step would wait for a GPU.
        self._dynamic: Tensor | None = None
        self._updates = 0
        self._groups: Groups | None = None
        self._logged: tuple[list[str], Groups] | None = None

    # -- stage hooks ----------------------------------------------------------------------------------------

    def on_stage_start(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        self._forget()
        plan = trainer.run.record.stage(stage.number).plan
        reused = not (plan.get("new_blocks") or plan.get("new_projector"))
        self.active = method.trains and (reused or self.ema_when == "always")

    def on_stage_end(self, trainer: StreamTrainer, method: ContinualMethod, stage: Stage) -> None:
        if not self.active:
            return
        self._write(method)
        if self._constant is None:
            self.shares[str(stage.number)] = self._num_dynamic() / max(1, self._updates)
        self._forget()
        self.active = False

    @contextlib.contextmanager
    def averaged(self, method: ContinualMethod) -> Iterator[None]:
        """Put theta* in the place of theta inside the block, to evaluate inside a stage."""
        own = {name: parameter.detach().clone() for name, parameter in trainable(method).items()}
        self._write(method)
        try:
            yield
        finally:
            _copy_into(method, own)

    def _num_dynamic(self) -> int:
        return 0 if self._dynamic is None else int(self._dynamic)

    def _write(self, method: ContinualMethod) -> None:
        if self._average:
            _copy_into(method, self._average)

    # -- steps ----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.active:
            return
        assert isinstance(pl_module, ContinualMethod)
        parameters = self._parameters = trainable(pl_module)
        self._prepare(list(parameters), next(iter(parameters.values())).device)
        if self._average:
            # A checkpoint is read onto the CPU.
            if self._average.keys() != parameters.keys():
                raise RuntimeError(
                    "DynamicEMA: the checkpoint's averages are not of what trains in this stage"
                )
            for held in (self._average, self._previous):
                held.update({name: tensor.to(parameters[name].device) for name, tensor in held.items()})
        elif self.theta0 == "group":
            self._average = {name: _copied(parameter) for name, parameter in parameters.items()}

    def _prepare(self, names: list[str], device: torch.device) -> None:
        """Group the tensors: those that share a beta, and those of a line of the log."""
        positions = [[position] for position in range(len(names))]
        self._groups = Groups(layers_of(names) if self.beta_per == "layer" else positions, device)
        lines, place = by_layer(names), {name: position for position, name in enumerate(names)}
        self._logged = (
            list(lines),
            Groups([[place[name] for name in line] for line in lines.values()], device),
        )
        self._dynamic = torch.tensor(self._num_dynamic(), device=device)

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not self.active or self._constant is not None:
            return
        self._measured, self._change = {}, {}
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        self._previous = {name: grad for name, grad in self._previous.items() if name in grads}
        new = [name for name in grads if name not in self._previous]
        # The step may clip the gradient in place or drop it, so it is copied, into the last one's place.
        for names in in_parts(list(self._previous)):
            self._measure(names, [grads[name].float() for name in names])
        self._previous |= {name: _copied(grads[name]) for name in new}

    def _measure(self, names: list[str], grads: list[Tensor]) -> None:
        """Take of some tensors what the formula needs before the step, and keep their gradients."""
        before = [self._previous[name] for name in names]
        changes = torch._foreach_sub(grads, before)
        if self.beta == "official":
            columns = [torch._foreach_norm(grads, 1), torch._foreach_norm(changes, 1)]
        else:
            lags = self._paths(names)
            torch._foreach_mul_(lags, torch._foreach_add(grads, 1))
            columns = [torch._foreach_norm(lags, 1)]
            self._change |= dict(zip(names, changes, strict=True))
        self._measured |= dict(zip(names, zip(*columns, strict=True), strict=True))
        torch._foreach_copy_(before, grads)

    def _paths(self, names: list[str]) -> list[Tensor]:
        """theta - theta* of some tensors."""
        own = [self._parameters[name].detach().float() for name in names]
        return list(torch._foreach_sub(own, [self._average[name] for name in names]))

    @torch.no_grad()
    def on_step_end(self, trainer: StreamTrainer, method: ContinualMethod, step: int) -> None:
        if not self.active:
            return
        if not self._average:
            self._average = {name: _copied(parameter) for name, parameter in self._parameters.items()}
        shares, dynamic = self._weights()
        single: dict[str, Any] = dict(zip(self._parameters, shares.float().unbind(), strict=True))
        if self._constant is not None:
            # Known numbers go into one kernel for many tensors.
            single = dict.fromkeys(self._parameters, 1 - self._constant)
        for names in in_parts(list(self._parameters)):
            follow(
                [self._average[name] for name in names],
                [self._parameters[name].detach() for name in names],
                [single[name] for name in names],
            )
        self._change = {}
        assert self._dynamic is not None
        self._dynamic += dynamic.sum()
        self._updates += len(dynamic)
        self._log(method, shares, dynamic)

    def _weights(self) -> tuple[Tensor, Tensor]:
        """1 - beta of each tensor, and whether it is a dynamic one, on their device."""
        assert self._groups is not None
        if self._constant is not None:
            device, number = self._groups.sizes.device, len(self._parameters)
            share = torch.full((number,), 1 - self._constant, dtype=torch.float64, device=device)
            return share, torch.zeros(number, dtype=torch.bool, device=device)
        sums = [self._groups.sum(column) for column in self._columns().double()]
        raw = official_share(*sums) if self.beta == "official" else paper_share(*sums)
        share, dynamic = clamp_or_fallback(raw, self.fallback)
        return self._groups.spread(share), self._groups.spread(dynamic)

    def _columns(self) -> Tensor:
        """(arguments of the formula, tensors); NaN for a tensor without two gradients."""
        reaches: dict[str, Tensor] = {}
        for names in in_parts(list(self._measured)):
            paths = self._paths(names)
            if self.beta == "paper":
                torch._foreach_mul_(paths, [self._change[name] for name in names])
            reaches |= dict(zip(names, torch._foreach_norm(paths, 1), strict=True))
        official = self.beta == "official"
        nothing = torch.full((), math.nan, device=next(iter(self._parameters.values())).device)
        values: list[Tensor] = []
        for name in self._parameters:
            if name not in self._measured:
                values += [nothing] * (3 if official else 2)
            elif official:
                values += [reaches[name], *self._measured[name]]
            else:
                values += [*self._measured[name], reaches[name]]
        return torch.stack(values).view(len(self._parameters), -1).T

    def _log(self, method: ContinualMethod, shares: Tensor, dynamic: Tensor) -> None:
        assert self._logged is not None
        names, groups = self._logged
        betas = groups.sum(1 - shares) / groups.sizes
        values = {f"ema/beta/{name}": beta for name, beta in zip(names, betas.unbind(), strict=True)}
        if self._constant is None:
            values["ema/dynamic"] = dynamic.double().mean()
        for name, value in values.items():
            method.log(name, value, on_step=True, on_epoch=False)

    # -- state ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"dynamic_share": dict(self.shares)} if self.shares else {}
        if self._average:
            state |= {"average": dict(self._average), "previous": dict(self._previous)}
            state["counts"] = {"dynamic": self._num_dynamic(), "updates": self._updates}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._forget()
        self.shares = dict(state_dict.get("dynamic_share", {}))
        self._average = dict(state_dict.get("average", {}))
        self._previous = dict(state_dict.get("previous", {}))
        counts = state_dict.get("counts", {"dynamic": 0, "updates": 0})
        self._dynamic, self._updates = torch.tensor(counts["dynamic"]), counts["updates"]


def trainable(method: ContinualMethod) -> dict[str, nn.Parameter]:
    """What trains, by the names that it is saved under."""
    names = {tensor.data_ptr(): name for name, tensor in method.tensors().items()}
    return {names.get(p.data_ptr(), own): p for own, p in method.named_parameters() if p.requires_grad}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32, copy=True)


@torch.no_grad()
def _copy_into(method: ContinualMethod, values: Mapping[str, Tensor]) -> None:
    for name, parameter in trainable(method).items():
        parameter.copy_(values[name])
