"""FullWeights: a backbone whose own weights train, behind the interface of AdapterSet (`train: full`).

The decoder and its output head train as they are, token embeddings included, and the projector as a copy
unless it is frozen, so that `projector_carry` means what it means beside adapters. All else, the vision tower
above all, stays what was loaded, and is proven to. A stage stores all weights that train.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from lit_cvit.adapters import LoRABank, Target
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.parts import weights_at
from lit_cvit.methods.adapter_set import AdapterSet, ProjectorCarry


class FullWeights(AdapterSet):
    """The weights of a backbone's decoder and head, and copies of its projector; there are no banks."""

    def __init__(self, carry: ProjectorCarry, unrouted: Literal["hold", "drift"]) -> None:
        super().__init__(carry, unrouted)
        self._weights: dict[str, nn.Parameter] = {}

    def inject(
        self,
        backbone: Backbone,
        groups: tuple[str, ...],
        make_bank: Callable[[str, Target, nn.Linear], LoRABank],
        *,
        copies_projector: bool,
    ) -> None:
        """Let the weights train, and put the projector behind copies.

        Args:
            backbone: The loaded backbone, changed in place.
            groups: Unused.
            make_bank: Unused.
            copies_projector: Whether the projector is put behind a bank of copies.
        """
        self._weights = weights_at(backbone.model, backbone.language_paths)
        for parameter in self._weights.values():
            parameter.requires_grad_(True)
        super().inject(backbone, (), make_bank, copies_projector=copies_projector)

    @property
    def unfrozen(self) -> tuple[str, ...]:
        return () if self._backbone is None else tuple(self._backbone.language_paths.values())

    def tensors(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._weights.items()} | super().tensors()

    def trained(self) -> dict[str, nn.Parameter]:
        return self._weights | super().trained()


def require_trainable(
    owner: str, backbone: Backbone, modes: tuple[str, ...], settings: Mapping[str, tuple[Any, Any]]
) -> None:
    """Check that a method with `train: full` makes sense; warn of settings of adapters, which change nothing.

    Args:
        owner: Name of the method.
        backbone: Its backbone.
        modes: What the method can train.
        settings: Settings of adapters by name: value and default.

    Raises:
        ValueError: the method needs adapters, or the backbone's weights cannot train as they are stored.
    """
    if "full" not in modes:
        raise ValueError(f"model.train of {owner} must be {' or '.join(modes)}, got 'full'")
    if backbone.quantization != "none":
        raise ValueError(
            "model.train 'full' needs model.backbone.quantization none, got "
            f"{backbone.quantization!r}: packed weights cannot train; or set model.train: adapters"
        )
    if backbone.dtype != "float32":
        raise ValueError(
            f"model.train 'full' needs model.backbone.dtype float32, got {backbone.dtype!r}: steps of the "
            "size of a learning rate are lost in 16 bits; trainer.precision bf16-mixed computes in them"
        )
    warn_unused(settings, "with model.train: full", stacklevel=4)


def warn_unused(settings: Mapping[str, tuple[Any, Any]], why: str, *, stacklevel: int = 3) -> None:
    """Warn of settings of adapters that are not at their defaults, where nothing is adapted.

    Args:
        settings: Settings by name: value and default.
        why: The reason, after "have no effect".
        stacklevel: As in `warnings.warn`.
    """
    ignored = [f"model.{name}" for name, (value, default) in settings.items() if value != default]
    if ignored:
        verb = "has" if len(ignored) == 1 else "have"
        warnings.warn(f"{', '.join(ignored)} {verb} no effect {why}", stacklevel=stacklevel)
