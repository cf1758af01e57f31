"""FrozenCopy: what trains in a model as it is now, for forward passes in the place of what trains on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


class FrozenCopy:
    """Copies of the Parameters that train; the frozen rest of the model is shared, not copied.

    The copies are Parameters of their own that are put into the modules for the time of a pass. Exchanging
    the values instead would reach what autograd keeps of passes before, and what autocast has converted.

    Args:
        model: The model; as long as the copy is used, its modules and their names stay what they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._copies = [
            (owner, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            for owner in model.modules()
            for name, parameter in owner.named_parameters(recurse=False)
            if parameter.requires_grad
        ]
        self._dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the model on the copies inside the `with` block, without dropout."""
        live = [(owner, name, getattr(owner, name)) for owner, name, _ in self._copies]
        dropping = [module for module in self._dropouts if module.training]
        try:
            for owner, name, copied in self._copies:
                setattr(owner, name, copied)
            for module in dropping:
                module.eval()
            yield
        finally:
            for owner, name, parameter in live:
                setattr(owner, name, parameter)
            for module in dropping:
                module.train()
