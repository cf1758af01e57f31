"""ProjectorBank: one copy of a projector per task, group or key, chosen for each sample.

Methods that keep several projectors (DirLoRA, LCIA, EProj) need batches of mixed samples to work, so the
choice is made per row, through the routing context's map from rows to samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_cvit.adapters.routing import current

PRETRAINED = -1
_HALF = (torch.float16, torch.bfloat16)


def reinitialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear and normalisation layers of `module` anew, with torch's default distributions.

    Args:
        module: Changed in place.
        generator: Source of the draws, on the CPU.

    Raises:
        ValueError: a layer with parameters is neither linear nor a layer norm.
    """
    for name, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in own.values():
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.data.copy_(drawn)
        elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            layer.reset_parameters()
        elif own:
            raise ValueError(f"cannot draw layer {name!r} ({type(layer).__name__}) of the projector anew")


class ProjectorBank(nn.Module):
    """A projector and its copies; key -1 is the pre-trained projector, which never trains here."""

    def __init__(self, base: nn.Module, name: str = "projector") -> None:
        """Wrap the pre-trained projector; copies are added with `add`.

        Args:
            base: The projector; frozen by this, and the origin of fresh copies.
            name: Canonical name, which is also the kind of its rows and the name of the selecting fact.
        """
        super().__init__()
        self.base = base.requires_grad_(False)
        self.name = name
        self.copies = nn.ModuleList()

    def add(
        self, *, copy_from: int = PRETRAINED, initialise: Callable[[nn.Module], None] | None = None
    ) -> int:
        """Append a trainable copy, in float32 also where the pre-trained projector has 16 bits.

        Args:
            copy_from: Key of the copy whose values it starts from; -1 is the pre-trained projector.
            initialise: Called on the new copy, for example `lambda m: reinitialise(m, generator)`.

        Returns:
            The key of the copy.
        """
        module = copy.deepcopy(self.projector(copy_from)).requires_grad_(True)
        if _dtype(module, torch.float32) in _HALF:
            # A step of the size of a learning rate is lost in the rounding of 16 bits.
            module.float()
        if initialise is not None:
            initialise(module)
        self.copies.append(module)
        return len(self.copies) - 1

    def projector(self, key: int) -> nn.Module:
        """The projector of a key; -1 is the pre-trained one.

        Raises:
            ValueError: there is no such key.
        """
        if key == PRETRAINED:
            return self.base
        if not 0 <= key < len(self.copies):
            raise ValueError(f"{self.name!r} has no copy {key}; allowed are -1 to {len(self.copies) - 1}")
        return self.copies[key]

    def freeze(self, key: int) -> None:
        """Stop a copy from training; its values stay bit-identical."""
        self.projector(key).requires_grad_(False)

    def unfreeze(self, key: int) -> None:
        """Let a copy train again; build the optimizer after it.

        Raises:
            ValueError: the key is the pre-trained projector, which never trains.
        """
        if key == PRETRAINED:
            raise ValueError("the pre-trained projector never trains; add a copy of it")
        self.projector(key).requires_grad_(True)

    def projector_state(self) -> dict[str, Tensor]:
        """Tensors of all copies as "<name>.copies.<key>.<tensor>", sharing memory with them."""
        return {f"{self.name}.copies.{key}": value for key, value in self.copies.state_dict().items()}

    def forward(self, x: Tensor) -> Tensor:
        """Project each row with its sample's copy.

        The choice is the routing context's fact of this bank's name, (S,) integer keys. A projector may be
        given several rows for each row of the context's map (a merger of f patches).

        Args:
            x: (rows, ...), rows a multiple f of the map's rows.

        Returns:
            (rows', ...), as the projector itself gives for all rows; a copy of another type than x computes
            in its own, and its output has the type of x.

        Raises:
            RuntimeError: no routing context is active.
            ValueError: the fact, the row map or a chosen key is missing, or the rows do not divide evenly.
        """
        context = current()
        if context.bypass:
            return self.base(x)
        rows = context.row_to_sample.get(self.name)
        num_rows = x.shape[0] if rows is None else rows.shape[0]
        rows = context.rows(self.name, num_rows)
        assert rows is not None
        if num_rows == 0 or x.shape[0] % num_rows:
            raise ValueError(
                f"{self.name!r} got {x.shape[0]} rows, no multiple of the {num_rows} rows of its map"
            )
        keys = context.fact(self.name).index_select(0, rows)
        present = keys.unique().tolist()
        if len(present) == 1:
            return self._project(present[0], x)
        return self._mixed(x, keys, present)

    def _project(self, key: int, x: Tensor) -> Tensor:
        module = self.projector(key)
        own = _dtype(module, x.dtype)
        if key == PRETRAINED or own == x.dtype:
            y: Tensor = module(x)
            return y
        return module(x.to(own)).to(x.dtype)

    def _mixed(self, x: Tensor, keys: Tensor, present: list[int]) -> Tensor:
        grouped = x.unflatten(0, (keys.shape[0], -1))
        places, outputs = [], []
        for key in present:
            chosen = (keys == key).nonzero().squeeze(-1)
            y = self._project(key, grouped.index_select(0, chosen).flatten(0, 1))
            places.append(chosen)
            outputs.append(y.unflatten(0, (chosen.shape[0], -1)))
        # Sorting back the joined parts keeps autograd simple and every output row written exactly once.
        return torch.cat(outputs).index_select(0, torch.cat(places).argsort()).flatten(0, 1)


def _dtype(module: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    return next((parameter.dtype for parameter in module.parameters()), otherwise)
