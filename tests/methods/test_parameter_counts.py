"""How many parameters a method trains and stores, by formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stream_kit import small_data, small_method

from lit_cvit.methods import ContinualMethod, DirLoRA, SeqLoRA, SMoLoRA

HIDDEN, INNER, LAYERS, SENTENCE = 64, 128, 3, 384
FFN = [(HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)] * LAYERS
PROJECTOR = [(HIDDEN, HIDDEN)] * 2


def begun(
    folder: Path, family: type[ContinualMethod], num_stages: int = 1, **settings: Any
) -> ContinualMethod:
    """A method at the start of a stage, not trained."""
    method = small_method(folder, family, **settings)
    method.prepare()
    for stage in small_data().stages(seed=0)[:num_stages]:
        method.begin_stage(stage)
    return method


def lora(layers: list[tuple[int, int]], rank: int) -> int:
    return sum(rank * (inputs + outputs) for inputs, outputs in layers)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (("ffn", "projector"), FFN + PROJECTOR),
        (("ffn",), FFN),
        (("attention",), [(HIDDEN, HIDDEN)] * 4 * LAYERS),
    ],
)
def test_seq_lora_has_rank_times_inputs_and_outputs(
    llava_folder: Path, targets: tuple[str, ...], layers: list[tuple[int, int]]
) -> None:
    counts = begun(llava_folder, SeqLoRA, targets=targets).parameter_counts()
    assert (counts["trainable"], counts["stored"]) == (lora(layers, 32), lora(layers, 32))


@pytest.mark.parametrize(("projector", "size"), [("full", 2 * (HIDDEN * HIDDEN + HIDDEN)), ("frozen", 0)])
def test_a_full_projector_counts_whole_and_a_frozen_one_not(
    llava_folder: Path, projector: str, size: int
) -> None:
    counts = begun(llava_folder, SeqLoRA, projector=projector).parameter_counts()
    assert (counts["trainable"], counts["stored"]) == (lora(FFN, 32) + size,) * 2


def test_dir_lora_stores_every_stage_and_trains_the_last(llava_folder: Path) -> None:
    counts = begun(llava_folder, DirLoRA, num_stages=2).parameter_counts()
    one = lora(FFN + PROJECTOR, 32)
    assert (counts["trainable"], counts["stored"]) == (one, 2 * one)


@pytest.mark.parametrize(
    ("settings", "vectors", "matrices"),
    [
        ({}, 2, (4, 4)),
        ({"fusion": "mean"}, 0, (4, 4)),
        ({"use_if": False}, 0, (8, 0)),
        ({"use_vu": False}, 0, (0, 8)),
        ({"num_vu": 2, "num_if": 6}, 2, (2, 6)),
    ],
)
def test_smolora_adds_fusion_vectors_and_fixed_routers(
    llava_folder: Path, settings: dict[str, Any], vectors: int, matrices: tuple[int, int]
) -> None:
    counts = begun(llava_folder, SMoLoRA, **settings).parameter_counts()
    layers = FFN + PROJECTOR
    trained = lora(layers, 32) + vectors * sum(outputs for _, outputs in layers)
    fixed = sum(matrices[0] * inputs + matrices[1] * SENTENCE for inputs, _ in layers)
    assert (counts["trainable"], counts["stored"]) == (trained, trained + fixed)


def test_routers_of_top_2_count_as_trainable(llava_folder: Path) -> None:
    counts = begun(llava_folder, SMoLoRA, top_k=2).parameter_counts()
    assert counts["trainable"] == counts["stored"]


def test_equal_rank_means_equal_adapters(llava_folder: Path) -> None:
    """8 blocks of rank 4 hold as many adapter weights as one block of rank 32."""
    sizes = []
    for family in (SeqLoRA, SMoLoRA):
        tensors = begun(llava_folder, family, rank=32).tensors()
        sizes.append(sum(tensor.numel() for name, tensor in tensors.items() if ".blocks." in name))
    assert sizes == [lora(FFN + PROJECTOR, 32)] * 2
    bank = next(iter(begun(llava_folder, SMoLoRA, rank=32).banks.values()))
    assert bank.ranks == (4,) * 8


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (SeqLoRA, {"rank": 0}, "model.rank must be at least 1, got 0"),
        (SeqLoRA, {"targets": ["ffn", "atention"]}, "model.targets must be .* Did you mean 'attention'?"),
        (SeqLoRA, {"dropout": 1.0}, "model.dropout must be at least 0 and less than 1, got 1.0"),
        (SMoLoRA, {"rank": 12}, "model.rank must be a multiple of 8, the blocks of a layer; got 12"),
        (SMoLoRA, {"preset": "code"}, "model.preset must be one of paper, official; got 'code'"),
        (SMoLoRA, {"num_vu": -1}, "model.num_vu must be at least 0, got -1"),
        (SMoLoRA, {"num_vu": 0, "num_if": 0}, "model.num_vu and model.num_if are both 0"),
        (SMoLoRA, {"num_vu": 2, "top_k": 3}, "model.top_k must be at most 2, the blocks of a branch; got 3"),
        (SMoLoRA, {"use_vu": False, "use_if": False}, "SMoLoRA needs a branch"),
    ],
)
def test_settings_that_make_no_method_are_refused(
    llava_folder: Path, family: type[ContinualMethod], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_method(llava_folder, family, **settings)
