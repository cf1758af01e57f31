"""StoredMethod: a method's adapters and the state that makes it what it is, into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_cvit.adapters import LoRABank, ProjectorBank, load_strict
from lit_cvit.data.stage import Stage
from lit_cvit.methods.adapter_set import AdapterSet
from lit_cvit.methods.hooks import MethodHooks


class StoredMethod(MethodHooks):
    """A method with its adapters.

    Attributes:
        adapters: The adapters in the backbone.
        stage: The stage that is learned or was learned last.
    """

    adapters: AdapterSet
    stage: Stage | None
    _num_backbone_parameters: int

    @property
    def banks(self) -> dict[str, LoRABank]:
        """The banks by canonical name; none before `prepare`."""
        return self.adapters.banks

    @property
    def projector_bank(self) -> ProjectorBank | None:
        """The copies of a projector that trains as a whole."""
        return self.adapters.projector_bank

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that make the method what it is, by canonical name; they share the method's memory."""
        return self.adapters.tensors() | self.extra_tensors()

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

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by role: `trainable` now, `stored` in the state, and of the `backbone`."""
        return {
            "trainable": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "stored": sum(tensor.numel() for tensor in self.tensors().values()),
            "backbone": self._num_backbone_parameters,
        }
