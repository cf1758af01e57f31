"""A frozen decoder in shards: a rank holds a part of each layer, which all ranks gather for each of its uses.

PyTorch's FSDP2 (`fully_shard`) does it; arXiv 2304.11277 describes the idea. What is added to the layers
stays whole on every rank, so adapters, their gradients, checkpoints and reductions do not change.

A pass gathers on all ranks or waits forever. While training, every rank makes the same passes. Where numbers
of passes differ (answers end at different lengths, a share of samples is smaller), `Shards.in_lockstep` has a
rank that has ended gather along with the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

_FORWARD, _BACKWARD = 0, 1


class Shards:
    """The layers of a decoder in shards, over all ranks of a mesh.

    Args:
        decoder: What runs the layers, called with `inputs_embeds`; nothing else of it is divided.
        layers: Its layers, from input to output.
        loaded: Identities of the frozen parameters to divide; all others stay whole.
        mesh: The ranks, in one dimension, and their kind of device, which every layer is moved to.

    Attributes:
        trained: What trains, wherever it is. Its gradients are complete only when a backward pass has gone
            through all layers, on every rank and whatever its batch used. Otherwise DDP would reduce some of
            them between two layers, and a rank with a batch without images between two others, or never reach
            the lowest ones: collectives that meet in another order wait forever.
    """

    def __init__(
        self, decoder: nn.Module, layers: Sequence[nn.Module], loaded: set[int], mesh: DeviceMesh
    ) -> None:
        self._group, self._device_type = mesh.get_group(), mesh.device_type
        self._announcing = False
        self.trained: Sequence[nn.Parameter] = ()
        for layer in layers:
            whole = {each for each in layer.parameters() if id(each) not in loaded}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        # It divides nothing more, but lets the layers share streams and buffers: each would hold its own.
        root = fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
        self._layers = [layer for layer in layers if isinstance(layer, FSDPModule)]
        # By default the passes made before decide what is prefetched, and ranks may have made different ones.
        for layer, before in zip(self._layers, [root, *self._layers], strict=False):
            layer.set_modules_to_backward_prefetch([before])
        decoder.register_forward_pre_hook(self._before_forward, with_kwargs=True, prepend=True)
        decoder.register_forward_hook(self._after_forward, prepend=True)

    @contextlib.contextmanager
    def in_lockstep(self) -> Iterator[None]:
        """Around passes whose number may differ between ranks; all must enter it at the same point.

        Nothing else may be communicated inside. At the end, a rank waits for those that still make passes,
        and gathers with them. After an error it does not.
        """
        self._announcing = True
        try:
            yield
        finally:
            self._announcing = False
            self._forget_passes()
        while any(counts := self._announce(None)):
            for layer in self._layers if counts[_FORWARD] else reversed(self._layers):
                layer.unshard()
                layer.reshard()

    def _forget_passes(self) -> None:
        """Drop FSDP's notes of the passes made; it does so after a backward pass, and answers have none.

        They would grow with every token. Backward passes that are still to come do not miss them, since what
        they prefetch is set. The names are private, and those of torch 2.13; other versions were not tried.
        """
        for layer in self._layers:
            group = layer._get_fsdp_state()._fsdp_param_group
            # Without a pass so far there are no notes in common either.
            if group is not None and group._post_forward_indices:
                group._post_forward_indices.clear()
                group.comm_ctx.post_forward_order.clear()

    def _announce(self, kind: int | None) -> list[int]:
        """Tell the other ranks of a pass, or with None that there is none; how many make which kind."""
        counts = torch.zeros(2, dtype=torch.int64, device=self._device_type)
        if kind is not None:
            counts[kind] = 1
        distributed.all_reduce(counts, group=self._group)
        found: list[int] = counts.tolist()
        if all(found):
            raise RuntimeError(
                "ranks that hold a decoder in shards are in different passes, forward and backward; this is "
                "a defect of what makes passes here"
            )
        return found

    def _before_forward(
        self, decoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._announcing:
            self._announce(_FORWARD)
        states: Tensor = named["inputs_embeds"]
        if torch.is_grad_enabled() and self.trained:
            nothing = 0.0 * torch.cat([parameter.reshape(-1)[:1] for parameter in self.trained]).sum()
            named = {**named, "inputs_embeds": states + nothing.to(states.dtype)}
        return arguments, named

    def _after_forward(self, decoder: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        states: Tensor = output.last_hidden_state
        if self._announcing and states.requires_grad:
            states.register_hook(self._before_backward)

    def _before_backward(self, gradient: Tensor) -> None:
        self._announce(_BACKWARD)
