"""PGP on LoRA, and L2P with PGP: updates stay out of the subspaces of old inputs.

Source: Qiao et al., "Prompt Gradient Projection for Continual Learning" (ICLR 2024; code:
JingyangQiao/prompt-gradient-projection), a baseline of LCIA, whose text states no setting and whose code has
nothing of it but an unused attribute in its LoRA layers. The paper projects the prompts and keys of L2P,
with energies of 0.50 and 0.97 (`L2PPGP`). LCIA compares LoRA fine-tuning methods, so `PGP` is on LoRA.

Readings and deviations:

* On LoRA the rows of A are projected, by the inputs of their layer. Old inputs then keep A x, and B, which
  reads it, is free (`up: false`); with `up: true` its rows are projected by A x, and as A x is that of
  `rank` numbers, little may be left to learn. A projector that trains as a whole is not projected.
* Energy 0.90 on LoRA is the paper's for a CLIP model; there is none for LoRA.
* Inputs are `feature_rows` evenly spaced positions of each of `feature_samples` training samples, with their
  answers. The published code takes whole batches of features, which a decoder's width does not allow.
* What a prompt meets is the decoder's input, prompts included; what a key meets is the query.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from lit_cvit.backbones.base import Backbone
from lit_cvit.data.tasks import Batch
from lit_cvit.methods.l2p import L2P
from lit_cvit.methods.pgp.projected import Projected, ProjectedMethod, Rows
from lit_cvit.utils.settings import FromZeroToOne


class PGP(ProjectedMethod):
    """One LoRA that all stages train, A moving across the inputs of earlier tasks.

    Args:
        backbone: The pre-trained model.
        energy: Share of the squared length of a layer's inputs that a basis holds; 0 is SeqLoRA.
        up: Whether B is projected too.
        kwargs: Settings of every projected method, and of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("energy",)

    def __init__(
        self, backbone: Backbone, energy: FromZeroToOne = 0.9, up: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.energy, self.up = energy, up

    def projected(self) -> dict[str, Projected]:
        found = {}
        for name, bank in self.banks.items():
            block = bank.block(0)
            for part in ("A", "B") if self.up else ("A",):
                parameter = getattr(block, part)
                assert isinstance(parameter, nn.Parameter)
                found[f"{name}.{part}"] = Projected(parameter, self.energy)
        return found

    @contextlib.contextmanager
    def collecting(self, batch: Batch, rows: Rows) -> Iterator[None]:
        def collect(bank: Any, inputs: tuple[Tensor, ...]) -> None:
            met = inputs[0].flatten(0, -2)
            rows[f"{bank.name}.A"].append(met)
            if self.up:
                down = bank.block(0).A
                rows[f"{bank.name}.B"].append(met.to(down.dtype) @ down.T)

        handles = [bank.register_forward_pre_hook(collect) for bank in self.banks.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class L2PPGP(ProjectedMethod, L2P):
    """L2P whose prompts and keys move across the inputs and queries of earlier tasks.

    Args:
        backbone: The pre-trained model.
        prompt_energy: Share of the squared length of the decoder's inputs that the basis of prompts holds.
        key_energy: Share of that of the queries that the basis of keys holds.
        kwargs: Settings of every projected method, of L2P, and of every method.
    """

    free_settings: ClassVar[tuple[str, ...]] = ("prompt_energy", "key_energy")

    def __init__(
        self,
        backbone: Backbone,
        prompt_energy: FromZeroToOne = 0.5,
        key_energy: FromZeroToOne = 0.97,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.prompt_energy, self.key_energy = prompt_energy, key_energy

    def projected(self) -> dict[str, Projected]:
        assert self.pool is not None
        return {
            "pool.prompts": Projected(self.pool.prompts, self.prompt_energy),
            "pool.keys": Projected(self.pool.keys, self.key_energy),
        }

    @contextlib.contextmanager
    def collecting(self, batch: Batch, rows: Rows) -> Iterator[None]:
        def collect(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
            rows["pool.prompts"].append((inputs[0] if inputs else named["hidden_states"]).flatten(0, -2))

        rows["pool.keys"].append(self.query(batch))
        handle = self.backbone.decoder_layers[0].register_forward_pre_hook(collect, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
