"""A decoder in shards, in one process: which layers it gathers for other ranks, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from family_kit import FAMILIES, Noise
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lit_cvit.adapters import LoRABank
from lit_cvit.backbones import Llava, shards
from lit_cvit.data.tasks import Sample

SAMPLES = [
    Sample("image", "VQA", "What colour?", "Answer briefly.", ("red",), Noise(0)),
    Sample("text", "QA", "Which of these is a planet?", "", ("Mars is one.",)),
]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A process group of this process alone."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=30))
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


class Others:
    """Stands for the announcements of other ranks, one of each sum; afterwards they have ended."""

    def __init__(self, *passes: tuple[int, int]) -> None:
        self.passes = list(passes)

    def __call__(self, counts: Tensor, group: Any) -> None:
        counts += torch.tensor(self.passes.pop(0) if self.passes else (0, 0))


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the layers that were gathered without a pass of their own."""
    found: list[int] = []
    monkeypatch.setattr(shards.FSDPModule, "unshard", lambda layer: found.append(layer.self_attn.layer_idx))
    return found


def test_a_rank_that_has_ended_gathers_for_the_passes_of_the_others_in_their_order(
    llava_folder: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, gathered: list[int]
) -> None:
    backbone = Llava(str(llava_folder)).load()
    backbone.shard(mesh)
    upwards = list(range(len(backbone.decoder_layers)))
    assert len(upwards) > 1
    monkeypatch.setattr(shards.distributed, "all_reduce", Others((2, 0), (0, 1)))
    with backbone.in_lockstep():
        pass
    assert gathered == [*upwards, *reversed(upwards)]


def test_every_pass_in_lockstep_is_announced_and_no_other(
    llava_folder: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Llava(str(llava_folder)).load()
    backbone.shard(mesh)
    assert backbone.shards is not None
    backbone.shards.trained = [torch.nn.Parameter(torch.ones(2))]
    sums: list[list[int]] = []
    monkeypatch.setattr(shards.distributed, "all_reduce", lambda counts, group: sums.append(counts.tolist()))
    batch = backbone.encode(SAMPLES, with_answers=True)
    backbone.loss(batch).loss_sum.backward()
    assert sums == []
    with backbone.in_lockstep():
        backbone.loss(batch).loss_sum.backward()
    assert sums == [[1, 0], [0, 1], [0, 0]]
    assert torch.equal(backbone.shards.trained[0].grad, torch.zeros(2))


def test_passes_without_a_backward_pass_leave_nothing_in_memory(llava_folder: Path, mesh: DeviceMesh) -> None:
    """FSDP notes every layer of every pass until a backward pass ends."""
    backbone = Llava(str(llava_folder)).load()
    backbone.shard(mesh)
    layers: Any = backbone.decoder_layers
    groups = [layer._get_fsdp_state()._fsdp_param_group for layer in layers]
    batch = backbone.encode(SAMPLES, with_answers=True)
    with torch.no_grad(), backbone.in_lockstep():
        backbone.loss(batch)
        backbone.loss(batch)
        assert groups[0].comm_ctx.post_forward_order == groups * 2
    assert [group.comm_ctx.post_forward_order for group in groups] == [[]] * len(groups)
    assert [group._post_forward_indices for group in groups] == [[]] * len(groups)


def test_ranks_in_different_passes_are_an_error(
    llava_folder: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Llava(str(llava_folder)).load()
    backbone.shard(mesh)
    monkeypatch.setattr(shards.distributed, "all_reduce", Others((1, 1)))
    with (
        pytest.raises(RuntimeError, match="in different passes, forward and backward"),
        backbone.in_lockstep(),
    ):
        pass


def test_after_an_error_no_rank_is_waited_for(
    llava_folder: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, gathered: list[int]
) -> None:
    backbone = Llava(str(llava_folder)).load()
    backbone.shard(mesh)
    monkeypatch.setattr(shards.distributed, "all_reduce", Others((1, 0)))
    with pytest.raises(ValueError, match="broken image"), backbone.in_lockstep():
        raise ValueError("broken image")
    assert gathered == []


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_frozen_weights_of_every_family_stay_what_they_were(
    name: str, tmp_path: Path, mesh: DeviceMesh
) -> None:
    FAMILIES[name].build(tmp_path / "model")
    backbone = FAMILIES[name].backbone(str(tmp_path / "model"), **FAMILIES[name].settings).load()
    batch = backbone.encode(SAMPLES, with_answers=True)
    before, digest = backbone.loss(batch).loss_sum, backbone.digest_frozen()
    backbone.shard(mesh)
    assert torch.equal(backbone.loss(batch).loss_sum, before)
    assert backbone.digest_frozen() == digest
    assert {type(p).__name__ for p in backbone.decoder_layers.parameters()} == {"DTensor"}


def test_a_weight_in_shards_is_not_merged_into(llava_folder: Path, mesh: DeviceMesh) -> None:
    backbone = Llava(str(llava_folder)).load()
    bank = LoRABank(backbone.decoder_layers[0].mlp.up_proj, "decoder.0.mlp.up_proj")
    bank.add_block(2, torch.Generator().manual_seed(0))
    assert bank.merges
    backbone.shard(mesh)
    assert not bank.merges
