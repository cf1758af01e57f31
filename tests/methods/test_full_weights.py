"""`train: full`: what trains, what stays, what is stored, and who refuses it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import Gradients, Snapshots, differing, fit, quick_data, small_data, small_method, snapshot

from lit_cvit.adapters import routing
from lit_cvit.backbones import Llava
from lit_cvit.memory_plan import advice, plan_memory
from lit_cvit.methods import (
    AGEM,
    EWC,
    EWCTIR,
    L2,
    LCIA,
    CLoRA,
    ContinualMethod,
    DirLoRA,
    DoRA,
    HiDe,
    ModelTailor,
    MoELoRA,
    Multitask,
    OLoRA,
    ProgLoRADynamic,
    ProgLoRAStatic,
    SeqLoRA,
    SMoLoRA,
    ZeroShot,
)
from lit_cvit.stream.preflight import introduce

pytestmark = pytest.mark.filterwarnings("ignore:model.rank, model.alpha have no effect")
FOUR = {"num_train": 4}


def full(folder: Path, family: type[ContinualMethod] = SeqLoRA, **settings: Any) -> ContinualMethod:
    return small_method(folder, family, train="full", rate=1e-3, **settings)


def vision(backbone: Llava) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.vision_tower.state_dict().items()}


def test_decoder_head_and_projector_train_and_the_vision_tower_stays_as_loaded(
    llava_folder: Path, tmp_path: Path
) -> None:
    method = full(llava_folder)
    fit(tmp_path, method, callbacks=[])
    fresh = Llava(str(llava_folder)).load()
    assert method.banks == {}
    assert method.frozen_words == "frozen but for decoder and output head"
    assert {n: t.tolist() for n, t in vision(method.backbone).items()} == {  # type: ignore[arg-type]
        n: t.tolist() for n, t in vision(fresh).items()
    }
    stored = method.tensors()
    loaded = {f"decoder.{n}": p for n, p in fresh.language_model.named_parameters()}
    loaded |= {f"head.{n}": p for n, p in fresh.model.lm_head.named_parameters()}
    loaded |= {f"projector.copies.0.{n}": p for n, p in fresh.projector.named_parameters()}
    assert stored.keys() == loaded.keys() == method.adapters.trained().keys()
    assert [name for name in stored if torch.equal(stored[name], loaded[name])] == []


def test_a_frozen_projector_stays_and_is_not_stored(llava_folder: Path, tmp_path: Path) -> None:
    method = full(llava_folder, projector="frozen")
    fit(tmp_path, method, callbacks=[])
    before = Llava(str(llava_folder)).load().projector.state_dict()
    assert [
        n for n, t in method.backbone.projector.state_dict().items() if not torch.equal(t, before[n])
    ] == []
    assert {name.split(".")[0] for name in method.tensors()} == {"decoder", "head"}


def test_a_vision_tower_that_changes_is_found(llava_folder: Path) -> None:
    method = full(llava_folder)
    method.prepare()
    method.adapters.note_frozen()
    method.adapters.check_frozen()
    with torch.no_grad():
        next(method.backbone.language_model.parameters()).add_(1)
        method.adapters.check_frozen()
        next(method.backbone.vision_tower.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="frozen backbone changed"):
        method.adapters.check_frozen()


def test_the_gradients_are_those_of_plain_training(llava_folder: Path, tmp_path: Path) -> None:
    gradients = Gradients()
    data = quick_data(tasks=["GQA"], settings=FOUR)
    method = full(llava_folder)
    fit(tmp_path, method, data, callbacks=[gradients])
    plain = Llava(str(llava_folder)).load()
    plain.model.requires_grad_(True)
    source = data.stream[0].train
    assert source is not None
    batch = plain.encode([source.sample(row) for row in range(4)], with_answers=True)
    logits = plain.model(**batch.inputs, position_ids=plain.positions(batch.inputs)).logits
    assert batch.answer_mask is not None
    rows, columns = batch.answer_mask.nonzero(as_tuple=True)
    labels = batch.inputs["input_ids"][rows, columns]
    torch.nn.functional.cross_entropy(logits[rows, columns - 1], labels).backward()
    expected = {
        f"{part}.{name}": parameter.grad
        for part, module in (("decoder", plain.language_model), ("projector.copies.0", plain.projector))
        for name, parameter in module.named_parameters()
    }
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    (first,) = gradients.steps
    for name, parameter in method.adapters.trained().items():
        if name in expected:
            got, value = first[names[id(parameter)]], expected[name]
            assert value is not None
            torch.testing.assert_close(got, value, rtol=1e-3, atol=1e-6, msg=name)


def test_a_run_goes_on_from_a_finished_one(llava_folder: Path, tmp_path: Path) -> None:
    first = full(llava_folder)
    source = fit(tmp_path, first, quick_data(tasks=["GQA"]), callbacks=[]).run
    before = snapshot(first)
    snapshots = Snapshots()
    again = full(llava_folder)
    fit(tmp_path, again, quick_data(tasks=["VQAv2"]), callbacks=[snapshots], start_from=str(source.path))
    assert differing(snapshots.before[0], before) == []
    assert differing(snapshots.after[0], before) == list(before)


# -- who refuses it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [
        SMoLoRA,
        HiDe,
        LCIA,
        DirLoRA,
        ProgLoRAStatic,
        ProgLoRADynamic,
        ZeroShot,
        DoRA,
        CLoRA,
        MoELoRA,
        OLoRA,
        ModelTailor,
    ],
)
def test_a_method_that_needs_adapters_refuses_it(llava_folder: Path, family: type[ContinualMethod]) -> None:
    with pytest.raises(ValueError, match=rf"model.train of {family.__name__} must be adapters, got 'full'"):
        full(llava_folder, family)


@pytest.mark.parametrize("family", [SeqLoRA, Multitask, L2, EWC, EWCTIR, AGEM])
def test_a_method_that_needs_none_takes_it(llava_folder: Path, family: type[ContinualMethod]) -> None:
    assert full(llava_folder, family).adapted_groups == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "nf4"}, "model.backbone.quantization none, got 'nf4'.*model.train: adapters"),
        ({"quantization": "int8"}, "model.backbone.quantization none, got 'int8'"),
        ({"dtype": "bfloat16"}, "model.backbone.dtype float32, got 'bfloat16'.*bf16-mixed"),
    ],
)
def test_weights_that_cannot_train_are_refused(
    llava_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SeqLoRA(Llava(str(llava_folder), **settings), train="full")


def test_settings_of_adapters_are_said_to_have_no_effect(llava_folder: Path) -> None:
    with pytest.warns(UserWarning, match="model.rank, model.targets have no effect with model.train: full"):
        SeqLoRA(Llava(str(llava_folder)), train="full", rank=8, targets=("ffn",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SeqLoRA(Llava(str(llava_folder)), train="full")


# -- what it takes -------------------------------------------------------------------------------------------


def test_the_plan_counts_weights_once_and_what_training_them_adds(llava_folder: Path) -> None:
    data, method = small_data(), full(llava_folder, EWC)
    introduce(method, data)
    stages = data.stages(seed=0)
    plan = plan_memory(full(llava_folder, EWC), data, stages, precision="32-true")
    method.prepare()
    method.begin_stage(stages[0])
    trained = [p for p in method.parameters() if p.requires_grad]
    size = sum(p.numel() * 4 for p in trained)
    projector = sum(p.numel() * 4 for p in method.backbone.projector.parameters() if p.requires_grad)
    assert plan.row("held", "adapters").size == projector
    assert plan.row("training", "gradients").size == size
    assert plan.row("training", "method's copies").size == 2 * size
    optimizer = method.configure_optimizers()["optimizer"]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = sum(t.numel() * t.element_size() for each in optimizer.state.values() for t in each.values())
    assert plan.row("training", "optimizer").size == held
    assert method.parameter_counts()["trainable"] == size // 4
    assert advice(method, data)[0] == "model.train: adapters"
    assert not [each for each in advice(method, data) if "quantization" in each or "rank" in each]


def test_answers_are_those_of_the_weights_themselves(llava_folder: Path) -> None:
    """Nothing is wrapped, so that a forward pass without routing is the same."""
    method = full(llava_folder, projector="frozen")
    method.prepare()
    method.begin_stage(small_data().stages(seed=0)[0])
    batch = method.backbone.encode([small_data().benchmark.stream[0].test.sample(0)], with_answers=True)
    with torch.no_grad():
        with routing(method.context(batch)):
            routed = method.backbone.answer_logits(batch).logits
        assert torch.equal(routed, Llava(str(llava_folder)).load().answer_logits(batch).logits)
