"""A pass with adapters merged where a batch has one gate: the same answers, the same weights afterwards."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from answering_kit import stirred, trained
from prog_kit import hashed_texts as hashed_texts
from stream_kit import fit, small_data, small_method

from callbacks import StageEvaluation
from lit_cvit.adapters import MergedBanks
from lit_cvit.backbones import Tiny
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods import ContinualMethod, DirLoRA, SeqLoRA, SMoLoRA

CPU = torch.device("cpu")
# Which banks a pass over one learned task merges.
METHODS: dict[str, tuple[str, dict[str, Any], str]] = {
    "one adapter": ("SeqLoRA", {}, "all"),
    "the task's adapter": ("DirLoRA", {"projector": "full"}, "all"),
    "the sum of the tasks'": ("OLoRA", {}, "all"),
    "fused layers": ("HiDe", {"expand": "top"}, "below the top"),
    "fused layers, multiplied": ("HiDe", {"expand": "top", "fusion": "product_of_sums"}, "below the top"),
    "patches": ("ModelTailor", {"calibration_samples": 4}, "all"),
    "routers": ("SMoLoRA", {}, "none"),
    "norms": ("DoRA", {}, "none"),
}


def answers(
    method: ContinualMethod, data: ContinualDataModule, name: str, *, merge: bool, **more: Any
) -> list[str]:
    task = replace(data.benchmark.task(name), max_new_tokens=6)
    found = evaluate_task(method, data, task, device=CPU, merge_adapters=merge, **more)
    return [row["text"] for row in found.rows]


def attached(method: ContinualMethod, **more: Any) -> ContinualDataModule:
    data = small_data(eval_batch_size=4, **more)
    data.attach(method.backbone.encoder)
    return data


@pytest.mark.parametrize("case", METHODS)
def test_a_pass_merges_what_has_one_gate_and_answers_alike(
    case: str, llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings, merges = METHODS[case]
    method = trained(llava_folder, tmp_path, name, settings)
    data, digest = attached(method, settings={"num_test": 8}), method.backbone.digest_frozen()
    seen: set[str] = set()
    follow = MergedBanks.follow

    def watched(merged: MergedBanks, context: Any) -> None:
        follow(merged, context)
        seen.update(name for name, bank in method.banks.items() if bank.merged)

    monkeypatch.setattr(MergedBanks, "follow", watched)
    plain = answers(method, data, "ScienceQA", merge=False)
    assert seen == set()
    assert answers(method, data, "ScienceQA", merge=True) == plain
    top = f"decoder.{len(method.backbone.decoder_layers) - 1}."
    expected = {"all": set(method.banks), "none": set()}.get(
        merges, {name for name in method.banks if not name.startswith(top)}
    )
    assert seen == expected
    assert method.backbone.digest_frozen() == digest
    assert not any(bank.merged for bank in method.banks.values())


@pytest.mark.parametrize("family", [SeqLoRA, DirLoRA])
def test_tiny_says_the_same_with_merged_adapters(family: type[ContinualMethod]) -> None:
    method = family(Tiny(), rank=8, alpha=16)
    method.prepare()
    data = ContinualDataModule(settings={"num_test": 12}, eval_batch_size=8)
    data.attach(method.backbone.encoder)
    for stage in data.stages(seed=0)[:2]:
        method.begin_stage(stage)
    stirred(method, 0.02)
    for name in ("ScienceQA", "TextVQA"):
        assert answers(method, data, name, merge=True) == answers(method, data, name, merge=False)


class Stopped(Exception):
    """Stands for a signal."""


def test_a_pass_that_is_stopped_leaves_the_weights_as_they_were(llava_folder: Path, tmp_path: Path) -> None:
    method = trained(llava_folder, tmp_path, "SeqLoRA", {})
    data, digest = attached(method), method.backbone.digest_frozen()
    state: list[tuple[bool, bool]] = []

    def stop(_: int) -> None:
        merged = all(bank.merged for bank in method.banks.values())
        state.append((merged, method.backbone.digest_frozen() == digest))
        raise Stopped

    with pytest.raises(Stopped):
        answers(method, data, "ScienceQA", merge=True, progress=stop)
    assert state == [(True, False)]
    assert method.backbone.digest_frozen() == digest
    assert not any(bank.merged for bank in method.banks.values())


def evaluation(**more: Any) -> StageEvaluation:
    return StageEvaluation(downstream=False, report=False, **more)


def test_a_run_with_merged_passes_stores_what_one_without_does(llava_folder: Path, tmp_path: Path) -> None:
    found = []
    for merge in (False, True):
        run = fit(
            tmp_path / str(merge), small_method(llava_folder), callbacks=[evaluation(merge_adapters=merge)]
        ).run
        texts = [[row["text"] for row in run.predictions(2, name)] for name in ("ScienceQA", "GQA")]
        tensors = (run.stage_folder(2) / "method.safetensors").read_bytes()
        found.append((texts, tensors, run.matrix()))
    assert found[0] == found[1]


def test_merging_that_merges_nothing_warns(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="merge_adapters has no effect, SMoLoRA has no adapter here"):
        fit(
            tmp_path / "routed",
            small_method(llava_folder, SMoLoRA),
            callbacks=[evaluation(merge_adapters=True)],
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "plain", small_method(llava_folder), callbacks=[evaluation(merge_adapters=True)])
    assert not [each for each in caught if "merge_adapters" in str(each.message)]
