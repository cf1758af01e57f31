"""A pass with adapters merged where a batch has one gate: the same answers, the same weights afterwards."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from answering_kit import trained
from prog_kit import hashed_texts as hashed_texts
from stream_kit import fit, small_data, small_method

from callbacks import StageEvaluation
from lit_cvit.adapters import LoRABank, MergedBanks
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.evaluation import evaluate_task
from lit_cvit.methods import ContinualMethod, SMoLoRA

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


def watched_merges(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the banks that are merged from now on."""
    seen: set[str] = set()
    merge = MergedBanks._merge

    def watched(merged: MergedBanks, bank: LoRABank, gate: Any) -> None:
        merge(merged, bank, gate)
        seen.add(bank.name)

    monkeypatch.setattr(MergedBanks, "_merge", watched)
    return seen


@pytest.mark.parametrize("case", METHODS)
def test_a_pass_merges_what_has_one_gate_and_answers_alike(
    case: str, llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings, merges = METHODS[case]
    method = trained(llava_folder, tmp_path, name, settings)
    data, digest = attached(method, settings={"num_test": 8}), method.backbone.digest_frozen()
    seen = watched_merges(monkeypatch)
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


def test_a_run_with_merged_passes_stores_what_one_without_does(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, merged = [], watched_merges(monkeypatch)
    for merge in (False, True):
        assert merged == set()
        run = fit(
            tmp_path / str(merge), small_method(llava_folder), callbacks=[evaluation(merge_adapters=merge)]
        ).run
        texts = [[row["text"] for row in run.predictions(2, name)] for name in ("ScienceQA", "GQA")]
        tensors = (run.stage_folder(2) / "method.safetensors").read_bytes()
        found.append((texts, tensors, run.matrix()))
    assert found[0] == found[1]
    assert len(merged) > 1


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
