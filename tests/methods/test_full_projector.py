"""A projector that trains as a whole beside a 16-bit backbone: its own copy has 32 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from stream_kit import fit, quick_data, snapshot

from lit_cvit.backbones import Llava
from lit_cvit.methods import ContinualMethod, OptimizerSettings, SeqLoRA


def bfloat16_method(folder: Path, **settings: Any) -> ContinualMethod:
    backbone = Llava(str(folder), dtype="bfloat16")
    # 1e-6 is far below the spacing of 16-bit numbers of the size of a weight.
    optimizer = OptimizerSettings(learning_rate=1e-6, weight_decay=0.0)
    return SeqLoRA(backbone, rank=8, alpha=16, projector="full", optimizer=optimizer, **settings)


def base_of(method: ContinualMethod) -> dict[str, torch.Tensor]:
    assert method.projector_bank is not None
    return {f"projector.copies.0.{k}": v for k, v in method.projector_bank.base.state_dict().items()}


def test_small_steps_of_a_copy_beside_a_bfloat16_backbone_are_not_lost(
    llava_folder: Path, tmp_path: Path
) -> None:
    method = bfloat16_method(llava_folder)
    run = fit(tmp_path, method, quick_data(tasks=["GQA"]), callbacks=[]).run
    stored, base = run.load_stage(1).tensors, base_of(method)
    assert len(base) == 4
    for name, pretrained in base.items():
        assert (stored[name].dtype, pretrained.dtype) == (torch.float32, torch.bfloat16)
        change = (stored[name] - pretrained.float()).abs().max()
        assert 0 < float(change) < 1e-5
        assert torch.equal(stored[name], snapshot(method)[name])


def test_a_float32_copy_starts_again_from_the_bfloat16_weights(llava_folder: Path) -> None:
    method = bfloat16_method(llava_folder, projector_carry="reset_pretrained")
    method.prepare()
    first, second = quick_data().stages(seed=0)
    method.begin_stage(first)
    for name in base_of(method):
        method.tensors()[name].data.add_(0.001)
    method.begin_stage(second)
    for name, pretrained in base_of(method).items():
        assert method.tensors()[name].dtype == torch.float32
        assert torch.equal(method.tensors()[name], pretrained.float())
