"""On an 8-bit backbone the method itself trains, and loads to what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stream_kit import fit, small_data, small_method, snapshot

from lit_cvit.backbones import Llava
from lit_cvit.methods import ContinualMethod, OptimizerSettings, SeqLoRA, SMoLoRA
from lit_cvit.resume import restore_method
from lit_cvit.testing.child import logits, mixed_samples


def quantised(folder: Path, family: type[ContinualMethod]) -> ContinualMethod:
    return family(
        Llava(str(folder), quantization="int8"),
        rank=32,
        alpha=64,
        optimizer=OptimizerSettings(learning_rate=5e-3),
    )


@pytest.mark.parametrize("family", [SeqLoRA, SMoLoRA])
def test_the_method_itself_trains_on_an_8_bit_backbone(
    llava_folder: Path, tmp_path: Path, family: type[ContinualMethod]
) -> None:
    method = quantised(llava_folder, family)
    trainer = fit(tmp_path, method, small_data(tasks=["GQA"]), callbacks=[])
    decoder = [bank for bank in method.banks.values() if bank.kind == "decoder"]
    assert {type(bank.base).__name__ for bank in decoder} == {"Linear8bitLt"}
    plain = small_method(llava_folder, family)
    fit(tmp_path / "plain", plain, small_data(tasks=["GQA"]), callbacks=[])
    assert method.tensors().keys() == plain.tensors().keys()
    changed = [
        name for name, tensor in snapshot(method).items() if name.endswith(".B") and bool(tensor.any())
    ]
    assert changed == [n for n, t in snapshot(plain).items() if n.endswith(".B") and bool(t.any())]
    again = quantised(llava_folder, family)
    again.prepare()
    restore_method(again, trainer.run)
    samples = mixed_samples(small_data())
    assert torch.equal(logits(again.eval(), samples), logits(method.eval(), samples))
