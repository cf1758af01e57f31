"""A setting that would change nothing is said to, by name; one that has an effect, or its default, is not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import small_data, small_method

from lit_cvit.adapters import routing
from lit_cvit.methods import L2P, ContinualMethod, EProj, SeqLoRA, SMoLoRA

NO_VU = "without a visual-understanding branch (use_vu: false)"
NO_IF = "without an instruction-following branch (use_if: false)"
CARRY = "model.projector_carry has no effect on a projector that does not train as a whole"
ONE_BLOCK = {"num_vu": 1, "num_if": 1}


def reported(folder: Path, family: type[ContinualMethod], settings: dict[str, Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small_method(folder, family, **settings)
    assert {each.category for each in caught} <= {UserWarning}
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (SMoLoRA, {"vu_center": True, "use_vu": False}, f"model.vu_center has no effect {NO_VU}"),
        (
            SMoLoRA,
            {"vu_center": True, "num_vu": 0},
            "model.vu_center has no effect without a visual-understanding branch (num_vu: 0)",
        ),
        (SMoLoRA, {"fusion": "mean", "use_vu": False}, f"model.fusion has no effect {NO_VU}"),
        (SMoLoRA, {"fusion": "mean", "use_if": False}, f"model.fusion has no effect {NO_IF}"),
        (SMoLoRA, {"normalize": True, "use_if": False}, f"model.normalize has no effect {NO_IF}"),
        (
            SMoLoRA,
            {"normalize": True},
            "model.normalize has no effect with top_k: 1, which compares directions alone",
        ),
        (SMoLoRA, {"encoder": "some/encoder", "use_if": False}, f"model.encoder has no effect {NO_IF}"),
        (
            SMoLoRA,
            {"router_seed": 3, "fusion": "mean", **ONE_BLOCK},
            "model.router_seed has no effect where no branch has blocks to choose from",
        ),
        (EProj, {"targets": ("attention",)}, "model.targets has no effect without LoRA (lora: none)"),
        (L2P, {}, "model.rank, model.alpha have no effect where no layer carries LoRA (model.targets: [])"),
        (SeqLoRA, {"projector_carry": "reset_pretrained"}, f"{CARRY} (projector: lora)"),
        (
            SMoLoRA,
            {"projector_carry": "reinit_random", "projector": "frozen"},
            f"{CARRY} (projector: frozen)",
        ),
    ],
)
def test_a_setting_without_effect_is_named_with_the_reason(
    llava_folder: Path, family: type[ContinualMethod], settings: dict[str, Any], message: str
) -> None:
    assert reported(llava_folder, family, settings) == [message]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (SMoLoRA, {}),
        (SMoLoRA, {"vu_center": True, "use_if": False}),
        (SMoLoRA, {"vu_center": False, "fusion": "adaptive", "router_seed": 0, "use_vu": False}),
        (SMoLoRA, {"fusion": "mean"}),
        (SMoLoRA, {"normalize": True, "top_k": 2}),
        (SMoLoRA, {"normalize": True, "preset": "official"}),
        (SMoLoRA, {"encoder": "some/encoder", "use_vu": False}),
        (SMoLoRA, {"router_seed": 3, "use_vu": False}),
        (SMoLoRA, {"router_seed": 3, **ONE_BLOCK}),
        (EProj, {}),
        (L2P, {"targets": ("ffn",)}),
        (EProj, {"targets": ("attention",), "lora": "own"}),
        (SeqLoRA, {"projector_carry": "keep", "projector": "frozen"}),
        (SeqLoRA, {"projector_carry": "reinit_random", "projector": "full"}),
    ],
)
def test_settings_with_an_effect_and_defaults_say_nothing(
    llava_folder: Path, family: type[ContinualMethod], settings: dict[str, Any]
) -> None:
    assert reported(llava_folder, family, settings) == []


def logits(folder: Path, **settings: Any) -> torch.Tensor:
    method, data = small_method(folder, SMoLoRA, **ONE_BLOCK, **settings).eval(), small_data()
    method.prepare()
    method.begin_stage(data.stages(seed=0)[0])
    for name, tensor in method.tensors().items():
        if name.endswith(".B"):
            tensor.data.fill_(0.01)
    samples = [data.benchmark.stream[1].test.sample(index) for index in range(2)]
    batch = method.backbone.encode(samples, with_answers=True)
    with torch.no_grad(), routing(method.context(batch)):
        return method.backbone.answer_logits(batch).logits


@pytest.mark.filterwarnings("ignore:model.router_seed has no effect")
def test_a_router_seed_that_is_called_ignored_changes_no_output_and_another_does(llava_folder: Path) -> None:
    one, other = (logits(llava_folder, fusion="mean", router_seed=seed) for seed in (0, 3))
    assert torch.equal(one, other)
    one, other = (logits(llava_folder, fusion="adaptive", router_seed=seed) for seed in (0, 3))
    assert not torch.equal(one, other)
