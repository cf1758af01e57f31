"""Whole streams on families whose projector sees many rows for an image: routers, features, projectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from family_kit import FAMILIES
from stream_kit import fit, small_data

from lit_cvit import methods


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("qwen2_5_vl", "SMoLoRA", {"vu_center": True}),
        ("llava_next", "DirLoRA", {"projector": "full"}),
        ("internvl", "HiDe", {"anchors": "image"}),
    ],
)
def test_two_tasks_are_learned_and_scored(
    tmp_path: Path, name: str, method: str, settings: dict[str, Any]
) -> None:
    family = FAMILIES[name]
    family.build(tmp_path / "model")
    backbone = family.backbone(str(tmp_path / "model"), **family.settings)
    model = getattr(methods, method)(backbone, rank=8, alpha=16, **settings)
    data = small_data(settings={"num_train": 8, "num_test": 2}, batch_size=4)
    run = fit(tmp_path / "runs", model, data).run
    assert [len(row.split(",")) for row in (run.path / "matrix.csv").read_text().split()] == [4, 4, 4]
    model.adapters.check_frozen()
