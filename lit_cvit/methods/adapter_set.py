"""AdapterSet: the adapters of a method in its backbone, and the proof that all else stays frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters import (
    LoRABank,
    ProjectorBank,
    Target,
    adapter_state,
    grow,
    held_groups,
    hold_unrouted,
    inject,
    largest_gradients,
    load_strict,
    reinitialise,
)
from lit_cvit.backbones.base import Backbone

ProjectorMode = Literal["lora", "full", "frozen"]
ProjectorCarry = Literal["keep", "reset_pretrained", "reinit_random"]
PROJECTOR = "projector"


class AdapterSet:
    """Banks around the layers of a backbone, and copies of its projector where that trains as a whole.

    Attributes:
        banks: The banks by canonical name, in model order; none before `inject`.
        projector_bank: The projector's copies, or None.
        carry: What a projector copy that is trained again starts a stage from.
        unrouted: Whether what a step did not use is held, or may drift by momentum and weight decay.
    """

    def __init__(self, carry: ProjectorCarry, unrouted: Literal["hold", "drift"]) -> None:
        self.banks: dict[str, LoRABank] = {}
        self.projector_bank: ProjectorBank | None = None
        self.carry, self.unrouted = carry, unrouted
        self._backbone: Backbone | None = None
        self._frozen_digest = ""

    @property
    def unfrozen(self) -> tuple[str, ...]:
        """Paths of the parts of the backbone that train themselves."""
        return ()

    @property
    def injected(self) -> bool:
        """Whether the adapters are in the backbone."""
        return self._backbone is not None

    # -- building -------------------------------------------------------------------------------------------

    def inject(
        self,
        backbone: Backbone,
        groups: tuple[str, ...],
        make_bank: Callable[[str, Target, nn.Linear], LoRABank],
        *,
        copies_projector: bool,
    ) -> None:
        """Put banks around the layers of some groups.

        Args:
            backbone: The loaded backbone, changed in place.
            groups: Groups of its layers.
            make_bank: Builds a bank from its name, target and layer.
            copies_projector: Whether the projector is put behind a bank of copies.
        """
        named = backbone.linear_targets(groups)
        targets = {name: Target(target.path, target.kind) for name, target in named.items()}
        self.banks = inject(backbone.model, targets, make_bank)
        if copies_projector:
            self.projector_bank = ProjectorBank(backbone.projector)
            parent, _, leaf = backbone.projector_path.rpartition(".")
            setattr(backbone.model.get_submodule(parent), leaf, self.projector_bank)
        self._backbone = backbone

    def grow(self, plan: Mapping[str, Any]) -> None:
        """Follow a plan's keys about blocks and projector copies, with the draws of its `seed`."""
        generator = torch.Generator().manual_seed(plan["seed"])
        grow(self.banks.values(), self.projector_bank, plan, generator)
        restarts = self.carry != "keep" and not plan.get("new_projector")
        if self.projector_bank is not None and restarts:
            self._restart(self.projector_bank, plan.get("projector_copy", -1), generator)

    def _restart(self, bank: ProjectorBank, key: int, generator: torch.Generator) -> None:
        copy = bank.copies[key]
        if self.carry == "reset_pretrained":
            load_strict(copy.state_dict(), bank.base.state_dict())
        else:
            reinitialise(copy, generator)

    def train_only(self, number: int, *, blocks: bool = True) -> None:
        """Let one block of every bank and the projector copy of the same number train; all others freeze.

        Args:
            number: Number of block and copy.
            blocks: False leaves all blocks as they are.
        """
        for bank in self.banks.values() if blocks else ():
            for index in range(bank.num_blocks):
                (bank.unfreeze_block if index == number else bank.freeze_block)(index)
        for key, projector in enumerate(self.projector_bank.copies if self.projector_bank else ()):
            projector.requires_grad_(key == number)

    # -- state ----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all banks and copies by canonical name; they share the adapters' memory."""
        copies = self.projector_bank.projector_state() if self.projector_bank is not None else {}
        return adapter_state(self.banks) | copies

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train now, by the names of `tensors`."""
        parts: list[tuple[str, nn.Module | None]] = []
        for name, bank in self.banks.items():
            parts += [(f"{name}.blocks", bank.blocks), (f"{name}.router", bank.router)]
        if self.projector_bank is not None:
            parts.append((f"{self.projector_bank.name}.copies", self.projector_bank.copies))
        named = ((f"{at}.{key}", p) for at, part in parts if part for key, p in part.named_parameters())
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def note_frozen(self) -> None:
        """Note what the frozen backbone is before it trains, for `check_frozen`.

        It reads every weight, so once: where ranks divide the layers, after that.
        """
        if self._backbone is not None:
            self._frozen_digest = self._backbone.digest_frozen()

    def check_frozen(self) -> None:
        """Prove that the backbone, or a rank's shards of it, is bit for bit what `note_frozen` saw.

        Raises:
            RuntimeError: it is not, or was not noted.
        """
        if self._backbone is not None and self._backbone.digest_frozen() != self._frozen_digest:
            raise RuntimeError(
                "the frozen backbone changed during training; its weights no longer match what was loaded"
            )

    # -- steps ----------------------------------------------------------------------------------------------

    def newest_copy(self, num_samples: int, device: torch.device) -> dict[str, Tensor]:
        """The fact that every sample goes through the newest projector copy; nothing without copies."""
        if self.projector_bank is None:
            return {}
        newest = len(self.projector_bank.copies) - 1
        return {PROJECTOR: torch.full((num_samples,), newest, device=device)}

    def largest_gradients(self) -> Tensor | None:
        """The largest element of each gradient that `hold_unrouted` asks about; None where there is none."""
        return largest_gradients(self._held_groups())

    def hold_unrouted(self, largest: Sequence[float] | None = None) -> None:
        """Leave what this step did not use as it is: blocks, and a projector that saw no image.

        Args:
            largest: What `largest_gradients` gives, where the host has read it already.
        """
        hold_unrouted(self._held_groups(), largest)

    def _held_groups(self) -> list[tuple[nn.Parameter, ...]]:
        if self.unrouted == "drift":
            return []
        copies = self.projector_bank.copies if self.projector_bank is not None else ()
        whole = [tuple(p for p in copy.parameters() if p.requires_grad) for copy in copies]
        return [*held_groups(self.banks.values()), *whole]
