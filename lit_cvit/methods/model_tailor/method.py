"""Model Tailor: fine-tune, then keep a tenth of the change, and let that make up for the rest.

Source: Zhu et al., "Model Tailor: Mitigating Catastrophic Forgetting in Multi-modal Large Language Models"
(arXiv 2402.12048; code: didizhu-zju/Model-Tailor), which LCIA compares with (its MT). After a stage every
adapted layer's change is reduced to a sparse patch (`tailor`), and all its other entries go back to their
pre-trained values. The next stage begins from the weights with that patch, and with a new LoRA block.

Layers are calibrated in order, each on the outputs of those before it as they are after their patches, by
evenly spaced training samples of the stage: a stage ends with as many forward passes of one sample as there
are calibration samples times decoder layers, which the ranks share. Only the inputs' second moments of one
decoder layer, and the dense change of one linear layer, are in memory at a time. The patches lie beside the
weights, which stay as they are (`PatchedBank`).

Readings and deviations:

* The official code makes up for what goes with the wrong sign (it adds what Optimal Brain Surgeon subtracts);
  `compensation: published` does so too.
* It takes the last 12 decoder layers, the only ones it fine-tunes; here it is all that have adapters.
* It is made for one task, and LCIA does not say how it goes on. Here the change of all stages so far is
  reduced again (`against: pretrained`), so that one patch is all that is ever stored; what an old task needs
  may go. With `against: stage` every stage leaves a patch of its own change, which stays.
* It puts the projector back to the pre-trained one: `projector_after: reset`, of a projector that trains as a
  whole. One with adapters is patched like any other layer.
* The importance's omega is 0.8 in its LLaVA script (0.5 in its other copy of the same file).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_cvit.adapters import DECODER, LoRABank, PatchedBank, Target, load_strict, routing
from lit_cvit.adapters.dora import unpacked_weight
from lit_cvit.analysis.layers import by_layer
from lit_cvit.backbones.base import Backbone
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import SampleSource
from lit_cvit.methods.base import ContinualMethod, Plan
from lit_cvit.methods.calibration import dealt_batches
from lit_cvit.methods.hooks import READS_FROZEN_WEIGHTS
from lit_cvit.methods.model_tailor.tailor import Compensation, num_kept, tailored
from lit_cvit.utils.distributed import summed
from lit_cvit.utils.settings import AtLeastOne, FromZeroToOne, Range


class ModelTailor(ContinualMethod):
    """A block per stage, whose change is left as a sparse patch.

    Args:
        backbone: The pre-trained model.
        kept: Share of a layer's entries that are changed in the end.
        against: Whether a stage's patch is of all that has changed since pre-training, or of its own change.
        omega: Share of the change's own size in an entry's importance; the rest is its effect on outputs.
        compensation: How the entries that stay make up for the others, see `tailored`.
        calibration_samples: Training samples of a stage that its layers are calibrated on.
        projector_after: Whether a fully trained projector goes back to the pre-trained one after a stage.
        kwargs: Settings of every method.
    """

    bank_class: ClassVar[type[LoRABank]] = PatchedBank
    free_settings: ClassVar[tuple[str, ...]] = (
        "omega",
        "compensation",
        "calibration_samples",
        "projector_after",
    )

    def __init__(
        self,
        backbone: Backbone,
        kept: Annotated[float, Range(more_than=0, at_most=1)] = 0.1,
        against: Literal["pretrained", "stage"] = "pretrained",
        omega: FromZeroToOne = 0.8,
        compensation: Compensation = "obs",
        calibration_samples: AtLeastOne = 128,
        projector_after: Literal["reset", "keep"] = "reset",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.kept, self.against = kept, against
        self.omega, self.compensation = omega, compensation
        self.calibration_samples, self.projector_after = calibration_samples, projector_after
        if projector_after != "reset" and self.projector != "full":
            reason = f"on a projector that does not train as a whole (projector: {self.projector})"
            warnings.warn(f"model.projector_after has no effect {reason}", stacklevel=2)

    @property
    def sharding_unsupported_reason(self) -> str:
        """A patch is chosen by the weights that it changes."""
        return READS_FROZEN_WEIGHTS

    def plan_stage(self, stage: Stage) -> Plan:
        return {"new_blocks": [self.rank], "new_projector": self.is_new}

    def make_bank(self, name: str, target: Target, base: nn.Linear) -> LoRABank:
        bank = super().make_bank(name, target, base)
        assert isinstance(bank, PatchedBank)
        bank.patch_size = num_kept(base.out_features, base.in_features, self.kept)
        bank.patch_each = self.against == "stage"
        return bank

    def _patched(self) -> dict[str, PatchedBank]:
        return {name: bank for name, bank in self.banks.items() if isinstance(bank, PatchedBank)}

    def extra_tensors(self) -> dict[str, Tensor]:
        return {name: part for bank in self._patched().values() for name, part in bank.patch_state().items()}

    @torch.no_grad()
    def end_stage(self, stage: Stage) -> None:
        assert stage.task.train is not None
        if self.projector_bank is not None and self.projector_after == "reset":
            pretrained = self.projector_bank.base.state_dict()
            load_strict(self.projector_bank.copies[-1].state_dict(), pretrained)
        patched = self._patched()
        # The projector comes before the decoder.
        in_order = sorted(patched, key=lambda name: patched[name].kind == DECODER)
        with self.between_stages():
            for names in by_layer(in_order).values():
                hessians = self._hessians([patched[name] for name in names], stage.task.train)
                for name in names:
                    self._tailor(patched[name], hessians.pop(name))

    def _tailor(self, bank: PatchedBank, hessian: Tensor) -> None:
        """Turn what the block has changed into the newest patch."""
        block = bank.block(0)
        before, change = unpacked_weight(bank.base).float(), bank.block_change()
        if self.against == "pretrained":
            change += bank.patched_change()
        else:
            before = before + bank.patched_change()
        change, mask = tailored(
            change,
            before,
            hessian,
            kept=self.kept,
            omega=self.omega,
            compensation=self.compensation,
        )
        bank.patch(-1).fill(change, mask)
        block.B.zero_()

    def _hessians(self, banks: Sequence[PatchedBank], source: SampleSource) -> dict[str, Tensor]:
        """2 / n sum of x x' over the inputs of some banks, by bank; the same on all ranks, which share n."""
        rows = evenly_spaced(len(source), self.calibration_samples)
        sums = {
            bank.name: torch.zeros(bank.in_features, bank.in_features, device=self.device) for bank in banks
        }
        with _collected(banks, sums):
            for _, batch in dealt_batches(self, source, rows):
                with self.trainer.precision_plugin.forward_context(), routing(self.context(batch)):
                    self.backbone.loss(batch)
        return {name: summed(total).mul_(2 / len(rows)) for name, total in sums.items()}


@contextlib.contextmanager
def _collected(banks: Sequence[PatchedBank], sums: dict[str, Tensor]) -> Iterator[None]:
    """Add x x' of each bank's inputs up in `sums`."""

    def collect(bank: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(bank, PatchedBank)
        x = inputs[0].flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            sums[bank.name].addmm_(x.T.float(), x.float())

    handles = [bank.register_forward_pre_hook(collect) for bank in banks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
