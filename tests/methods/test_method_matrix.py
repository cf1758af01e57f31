"""The method matrix: every method and preset against everything in `lit_cvit.testing`."""

from __future__ import annotations

import inspect

import pytest

from lit_cvit.methods import ContinualMethod
from lit_cvit.testing import Row, classes_by_row

pytestmark = pytest.mark.matrix


# Whole weights diverge at the rate of the kit's adapters.
SLOW = {"optimizer": {"learning_rate": 1e-3}}
ROWS = {
    "zero_shot": Row("ZeroShot"),
    "seq_lora": Row("SeqLoRA"),
    "seq_lora_full": Row("SeqLoRA", {"projector": "full"}),
    "seq_lora_frozen": Row("SeqLoRA", {"projector": "frozen"}, int8=False),
    "seq_lora_attention": Row("SeqLoRA", {"targets": ["ffn", "attention", "projector"]}),
    "multitask": Row("Multitask"),
    "dir_lora": Row("DirLoRA"),
    "dir_lora_full": Row("DirLoRA", {"projector": "full"}),
    "eproj": Row("EProj"),
    "eproj_own": Row("EProj", {"lora": "own"}, int8=False),
    # Both tasks in one cluster, and a block that all stages train on.
    "eproj_reused": Row("EProj", {"threshold": 0.0, "lora": "shared"}, int8=False),
    "hide": Row("HiDe", sharded=True),
    "hide_product": Row("HiDe", {"fusion": "product_of_sums", "projector": "full"}, int8=False),
    "hide_all": Row("HiDe", {"expand": "all"}, int8=False),
    "lcia": Row("LCIA", callbacks=[{"class_path": "DynamicEMA"}]),
    # Both tasks in one group: the second stage trains it on, under the average.
    "lcia_reused": Row(
        "LCIA", {"projector": "full", "epsilon": 0.05}, callbacks=[{"class_path": "DynamicEMA"}]
    ),
    "c_lora": Row("CLoRA", {"weight": 1e4}),
    "dora": Row("DoRA"),
    "dora_full": Row("DoRA", {"projector": "full"}, int8=False),
    "model_tailor": Row("ModelTailor", {"calibration_samples": 6, "projector": "full"}),
    "model_tailor_stage": Row("ModelTailor", {"calibration_samples": 6, "against": "stage"}, int8=False),
    "moe_lora": Row("MoELoRA"),
    "moe_lora_first_token": Row("MoELoRA", {"router": "first_token", "num_experts": 2}, int8=False),
    # The norms count from the first step on, so that step shows how often a penalty counts.
    "o_lora": Row("OLoRA", {"norm_weight": 1.0}),
    "o_lora_own": Row("OLoRA", {"trained_with": "own", "projector": "full"}, int8=False),
    "agem": Row("AGEM", callbacks=[{"class_path": "Replay", "init_args": {"form": "gradient"}}]),
    "lwf": Row("LwF"),
    "lwf_full": Row("LwF", {"projector": "full"}, int8=False),
    "prog_lora_static": Row("ProgLoRAStatic", callbacks=[{"class_path": "Replay"}]),
    "prog_lora_static_term": Row(
        "ProgLoRAStatic",
        callbacks=[{"class_path": "Replay", "init_args": {"form": "term", "sizes": "similarity"}}],
    ),
    "prog_lora_dynamic": Row("ProgLoRADynamic", callbacks=[{"class_path": "TaskRecall"}]),
    "prog_lora_dynamic_no_recall": Row("ProgLoRADynamic", {"recall": "none"}, int8=False),
    "seq_lora_replay": Row("SeqLoRA", callbacks=[{"class_path": "Replay"}]),
    "l2p": Row("L2P"),
    "l2p_lora": Row("L2P", {"targets": ["ffn"], "projector": "full", "pool_size": 6}, int8=False),
    "pgp": Row("PGP", {"feature_samples": 6, "energy": 0.6}),
    "pgp_gradients": Row(
        "PGP",
        {"feature_samples": 6, "projects": "gradients", "up": True, "energy": 0.5, "projector": "full"},
        int8=False,
    ),
    "l2p_pgp": Row("L2PPGP", {"feature_samples": 6}),
    "l2": Row("L2", {"strength": 0.5}),
    "ewc": Row("EWC", {"strength": 3e5, "fisher_samples": 6, "projector": "full"}),
    "ewc_last": Row("EWC", {"fisher_samples": 6, "fisher_group": 4, "combine": "last"}, int8=False),
    "ewc_tir": Row("EWCTIR", {"strength": 3e6, "fisher_samples": 6, "similarity_samples": 8}),
    "seq_ft": Row("SeqLoRA", {"train": "full", **SLOW}, quantised=False),
    "l2_full": Row("L2", {"train": "full", "projector": "frozen", "strength": 0.5, **SLOW}, quantised=False),
    "ewc_full": Row("EWC", {"train": "full", "strength": 3e3, "fisher_samples": 6, **SLOW}, quantised=False),
    "agem_full": Row(
        "AGEM",
        {"train": "full", **SLOW},
        callbacks=[{"class_path": "Replay", "init_args": {"form": "gradient"}}],
        quantised=False,
    ),
    "smolora_ema": Row("SMoLoRA", callbacks=[{"class_path": "DynamicEMA"}], int8=False),
    "smolora": Row("SMoLoRA", sharded=True),
    # Its instance means count padding, as the published code's do.
    "smolora_official": Row("SMoLoRA", {"preset": "official"}, batched=False, divisible=False),
    "smolora_top2": Row("SMoLoRA", {"top_k": 2}, int8=False),
    "smolora_vu": Row("SMoLoRA", {"use_if": False}, int8=False),
    "smolora_if": Row("SMoLoRA", {"use_vu": False}, int8=False),
    "smolora_mean": Row("SMoLoRA", {"fusion": "mean"}, int8=False),
    # The centre is the mean of the first micro-batch.
    "smolora_center": Row("SMoLoRA", {"vu_center": True}, divisible=False, int8=False),
    "smolora_full": Row("SMoLoRA", {"projector": "full"}, int8=False),
}
globals().update(classes_by_row(ROWS))


def _shipped(family: type[ContinualMethod] = ContinualMethod) -> set[str]:
    """Names of the methods of the library, by inheritance: no list is kept by hand."""
    found = set()
    for below in family.__subclasses__():
        found |= _shipped(below)
        if below.__module__.startswith("lit_cvit.") and not inspect.isabstract(below):
            found.add(below.__name__)
    return found


def test_no_shipped_method_is_missing() -> None:
    assert _shipped() == {row.method for row in ROWS.values()}
