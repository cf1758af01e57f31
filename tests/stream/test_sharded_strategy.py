"""`trainer.strategy: ddp_sharded_backbone`: what it goes with, and what is refused before loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stream_kit import small_data

from lit_cvit.backbones import Llava
from lit_cvit.methods import ContinualMethod, DoRA, ModelTailor, SeqLoRA
from lit_cvit.stream.sharded import NAME, ShardedBackboneStrategy, require_shardable
from lit_cvit.stream.trainer import ContinualTrainer


def trainer(root: Path, devices: int = 2) -> ContinualTrainer:
    return ContinualTrainer(run_root=str(root), accelerator="cpu", devices=devices, strategy=NAME)


def test_the_trainer_takes_the_strategy_by_its_name(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    assert isinstance(made.strategy, ShardedBackboneStrategy)
    assert made.world_size == 2


def test_one_rank_is_refused_before_the_run(llava_folder: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path, devices=1)
    with pytest.raises(ValueError, match=r"^trainer\.strategy ddp_sharded_backbone divides .* got 1; set"):
        made.fit(SeqLoRA(Llava(str(llava_folder))), datamodule=small_data())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "settings", "backbone", "reason"),
    [
        (SeqLoRA, {}, {"quantization": "nf4"}, "needs model.backbone.quantization none, got 'nf4'"),
        (SeqLoRA, {"train": "full"}, {}, "needs model.train adapters, got 'full'"),
        (DoRA, {}, {}, "cannot train DoRA: it reads the frozen weights"),
        (ModelTailor, {}, {}, "cannot train ModelTailor: it reads the frozen weights"),
    ],
)
def test_what_needs_whole_weights_is_refused_with_the_reason(
    family: type[ContinualMethod], settings: dict[str, Any], backbone: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^trainer.strategy ddp_sharded_backbone {reason}"):
        require_shardable(family(Llava("anywhere", **backbone), **settings), 2)
