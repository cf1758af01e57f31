"""The memory plan against what is really allocated, on small models; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from stream_kit import BATCH, NUM_TRAIN, small_data, small_method
from torch import Tensor, nn
from transformers import LlamaConfig, LlavaConfig

from callbacks import StreamProgress
from lit_cvit.adapters import routing
from lit_cvit.backbones import Llava
from lit_cvit.backbones.footprint import outline, weight_bytes
from lit_cvit.cli.shipped import find_config, read_config
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.memory_plan import MemoryPlan, capacity, plan_memory, require_memory
from lit_cvit.methods import (
    EWC,
    L2,
    LCIA,
    ContinualMethod,
    DirLoRA,
    DoRA,
    HiDe,
    ModelTailor,
    MoELoRA,
    OLoRA,
    SeqLoRA,
    SMoLoRA,
    ZeroShot,
)
from lit_cvit.stream.preflight import introduce
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer


def planned(
    method: ContinualMethod, data: ContinualDataModule, precision: str = "32-true", **more: Any
) -> MemoryPlan:
    introduce(method, data)
    return plan_memory(method, data, data.stages(seed=0), precision=precision, **more)


def grown(method: ContinualMethod, data: ContinualDataModule) -> ContinualMethod:
    """The method, loaded, at the start of its last stage."""
    method.prepare()
    for stage in data.stages(seed=0):
        method.begin_stage(stage)
    return method


def bytes_of(tensors: Any) -> int:
    """Bytes of the memory behind tensors, each piece once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def stored_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, with what bitsandbytes keeps beside a packed weight."""
    found = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        weight: Any = getattr(part, "weight", None)
        if type(weight).__name__ == "Params4bit":
            state = weight.quant_state
            found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        elif type(weight).__name__ == "Int8Params":
            found.append(weight.SCB)
    return found


def part_of(backbone: Llava, path: str) -> Any:
    return backbone.model.get_submodule(path)


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [("none", "float32"), ("nf4", "bfloat16"), ("int8", "float16")],
)
def test_weights_take_the_predicted_bytes(
    llava_folder: Path,
    quantization: Literal["none", "nf4", "int8"],
    dtype: Literal["float32", "bfloat16", "float16"],
) -> None:
    backbone = Llava(str(llava_folder), quantization=quantization, dtype=dtype)
    predicted = weight_bytes(backbone, outline(backbone).network)
    backbone.load()
    paths = {
        "vision tower": backbone.vision_path,
        "projector": backbone.projector_path,
        "decoder": backbone.decoder_path,
        "output head": backbone.head_path,
    }
    real = {part: bytes_of(stored_tensors(part_of(backbone, path))) for part, path in paths.items()}
    assert predicted == real


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (SeqLoRA, {"targets": ("ffn", "attention", "projector")}),
        (SMoLoRA, {"top_k": 2}),
        (DirLoRA, {"projector": "full"}),
        (LCIA, {}),
        (HiDe, {"expand": []}),
        (DoRA, {}),
        (OLoRA, {}),
        (MoELoRA, {}),
        (ModelTailor, {}),
        (ModelTailor, {"against": "stage"}),
    ],
)
def test_adapters_and_their_optimizer_take_the_predicted_bytes(
    llava_folder: Path, family: type[ContinualMethod], settings: dict[str, Any]
) -> None:
    data = small_data()
    plan = planned(small_method(llava_folder, family, **settings), data)
    method = small_method(llava_folder, family, **settings)
    introduce(method, data)
    grown(method, data)
    assert plan.row("held", "adapters").size == bytes_of(method.tensors().values())
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = method.configure_optimizers()["optimizer"]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert plan.row("training", "gradients").size == bytes_of(p.grad for p in trained)
    state = [tensor for each in optimizer.state.values() for tensor in each.values()]
    assert plan.row("training", "optimizer").size == bytes_of(state)


@pytest.mark.parametrize(("family", "copies"), [(SeqLoRA, 0), (L2, 1), (EWC, 2)])
def test_what_a_method_holds_beside_what_trains_is_planned(
    llava_folder: Path, family: type[ContinualMethod], copies: int
) -> None:
    data = small_data()
    plan = planned(small_method(llava_folder, family), data)
    found = {row.name: row.size for row in plan.training}
    assert found.get("method's copies", 0) == copies * found["gradients"]
    method = small_method(llava_folder, family)
    introduce(method, data)
    grown(method, data).setup("fit")
    if isinstance(method, L2 | EWC):
        held = [t for each in method._held for t in (each.anchor, each.weight) if t is not None]
        assert bytes_of(held) == found["method's copies"]


def held_by_autograd(method: ContinualMethod, batch: Batch, dtype: torch.dtype | None = None) -> int:
    """Bytes that a training step's forward pass leaves for its backward pass, beside weights."""
    own = {t.untyped_storage().data_ptr() for t in stored_tensors(method)}
    stored: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            stored[storage.data_ptr()] = storage
        return tensor

    method.train()
    mixed = torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mixed:
        with routing(method.context(batch)):
            loss = method.backbone.loss(batch).loss_sum
        total = sum(storage.nbytes() for storage in stored.values())
    assert loss.requires_grad
    return total


def step_of(method: ContinualMethod, data: ContinualDataModule, dtype: torch.dtype | None = None) -> int:
    """Bytes kept in a step on the longest samples, one of them shorter, so that there is padding."""
    grown(method, data)
    sources = [task.train for task in data.stream if task.train is not None]
    samples = [source.sample(row) for source in sources for row in range(NUM_TRAIN)]
    samples.sort(key=method.backbone.prompt_length)
    batch = method.backbone.encode([samples[0], *[samples[-1]] * (BATCH - 1)], with_answers=True)
    return held_by_autograd(method, batch, dtype)


def seeing_data() -> ContinualDataModule:
    """Every sample has an image, so the first decoder layer gets gradients as the others do."""
    return small_data(tasks=["GQA", "VQAv2"])


@pytest.mark.parametrize(
    ("family", "settings", "backbone", "precision"),
    [
        (SeqLoRA, {"dropout": 0.1, "targets": ("ffn", "attention", "projector")}, {}, "32-true"),
        (SMoLoRA, {"projector": "full"}, {}, "32-true"),
        (HiDe, {"expand": []}, {}, "32-true"),
        (MoELoRA, {}, {}, "32-true"),
        (DoRA, {}, {"dtype": "bfloat16", "quantization": "nf4"}, "bf16-mixed"),
        (SeqLoRA, {}, {"dtype": "bfloat16", "quantization": "nf4"}, "bf16-mixed"),
        (SeqLoRA, {"train": "full"}, {}, "32-true"),
        (SeqLoRA, {"train": "full"}, {}, "bf16-mixed"),
    ],
)
def test_activations_are_predicted_within_a_tenth(
    llava_folder: Path,
    family: type[ContinualMethod],
    settings: dict[str, Any],
    backbone: dict[str, Any],
    precision: str,
) -> None:
    data = seeing_data()
    method = family(Llava(str(llava_folder), **backbone), rank=32, alpha=64, **settings)
    predicted = planned(method, data, precision).row("training", "activations").size
    real = step_of(method, data, torch.bfloat16 if precision == "bf16-mixed" else None)
    assert predicted == pytest.approx(real, rel=0.1)


def test_checkpointing_is_predicted_as_the_layers_inputs_and_one_layer(llava_folder: Path) -> None:
    real, predicted = [], []
    for checkpointing in (False, True):
        data = seeing_data()
        backbone = Llava(str(llava_folder), activation_checkpointing=checkpointing)
        method = SeqLoRA(backbone, rank=32, alpha=64)
        predicted.append(planned(method, data).row("training", "activations").size)
        real.append(step_of(method, data))
    one_layer = real[0] / 3
    assert predicted[1] == pytest.approx(real[1] + one_layer, rel=0.1)
    assert predicted[1] < 0.5 * predicted[0]


def test_keys_and_values_take_the_predicted_bytes(llava_folder: Path) -> None:
    data = small_data(eval_batch_size=4)
    method = small_method(llava_folder, ZeroShot)
    plan = planned(method, data)
    assert plan.training == ()
    cases = [(task, task.test.sample(row)) for task in (*data.stream, *data.downstream) for row in range(5)]
    longest = max(data.encoder.prompt_length(sample) + task.decoding_budget for task, sample in cases)
    method.prepare()
    width = method.backbone.hidden_size
    inputs = torch.zeros(4, longest, width)
    cache = method.backbone.language_model(inputs_embeds=inputs, use_cache=True).past_key_values
    real = bytes_of(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert plan.row("answering", "keys and values").size == real


def test_a_plan_leaves_the_method_as_it_was(llava_folder: Path) -> None:
    method, data = small_method(llava_folder, LCIA), small_data()
    planned(method, data)
    assert method.is_new
    assert method.banks == {}
    assert method.groups == []  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="load"):
        _ = method.backbone.model


def test_a_run_that_starts_from_another_one_counts_its_blocks(llava_folder: Path) -> None:
    data = small_data()
    alone = planned(small_method(llava_folder, DirLoRA), data)
    earlier = [{"new_blocks": [32], "freeze_blocks": True, "new_projector": True}]
    after = planned(small_method(llava_folder, DirLoRA), data, earlier=earlier)
    assert after.row("held", "adapters").size == 1.5 * alone.row("held", "adapters").size
    assert after.row("training", "gradients") == alone.row("training", "gradients")


def test_ranks_hold_the_gradients_twice(llava_folder: Path) -> None:
    plan = planned(small_method(llava_folder), small_data(), world_size=2)
    assert plan.row("training", "DDP buckets").size == plan.row("training", "gradients").size


def test_a_gpu_without_room_is_refused_with_what_would_help(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method, data, device = small_method(llava_folder), small_data(), torch.device("cuda", 0)
    plan = planned(method, data)
    counted, all_of_it = plan.peak_bytes(estimated=False), plan.peak_bytes()
    free = [counted - 1, all_of_it, 2 * all_of_it]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free.pop(0), 0))
    with pytest.raises(ValueError, match="the run needs .* MiB free on cuda:0") as refused:
        require_memory(plan, device, capacity.advice(method, data))
    assert str(refused.value).splitlines()[-6:] == [
        "model.backbone.quantization: nf4",
        "model.backbone.dtype: bfloat16, with trainer.precision: bf16-mixed",
        "model.backbone.activation_checkpointing: true",
        "data.batch_size: 8, with data.global_batch_size: 16, which keeps the optimizer step as it is",
        "data.eval_batch_size: 32",
        "a lower model.rank, or a smaller backbone",
    ]
    require_memory(plan, device, [])
    assert [r.message[:38] for r in caplog.records] == ["the memory plan fills over 95 % of the"]
    caplog.clear()
    require_memory(plan, device, [])
    assert caplog.records == []


def test_elsewhere_only_weights_larger_than_the_whole_memory_are_refused(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(small_method(llava_folder), small_data())
    assert plan.weight_bytes < plan.peak_bytes(estimated=False)
    memory = [plan.weight_bytes - 1, plan.weight_bytes]
    monkeypatch.setattr(capacity, "system_memory", lambda: memory.pop(0))
    with pytest.raises(ValueError, match="the frozen model alone needs .* memory of this machine"):
        require_memory(plan, torch.device("cpu"), [])
    require_memory(plan, torch.device("cpu"), [])


class Curious(SeqLoRA):
    """Reads the model to plan."""

    def plan_stage(self, stage: Stage) -> dict[str, Any]:
        return {"new_blocks": [len(self.backbone.decoder_layers)] if self.is_new else []}


class Order(StageCallback):
    """Notes what is printed and loaded, in order, and ends the run there."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: list[str] = []
        self.loaded = True

    def before_loading(self, trainer: ContinualTrainer, method: ContinualMethod) -> None:
        self.plan, self.loaded = trainer.memory_plan, method.backbone._network is not None
        raise KeyboardInterrupt


@pytest.mark.parametrize("family", [SeqLoRA, Curious])
def test_a_fit_prints_the_plan_before_it_loads(
    llava_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    family: type[ContinualMethod],
) -> None:
    order = Order()
    trainer = ContinualTrainer(run_root=str(tmp_path), accelerator="cpu", callbacks=[StreamProgress(), order])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(small_method(llava_folder, family), datamodule=small_data())
    assert not order.loaded
    printed = capsys.readouterr().out
    if family is Curious:
        assert "Curious's growth does not work before the model is loaded" in caplog.text
        assert order.plan == []
        assert printed == ""
    else:
        assert order.plan[0] == "memory plan, computed before the weights are loaded"
        assert order.plan[-1].endswith(" GiB memory of this machine")
        assert printed.splitlines()[: len(order.plan)] == order.plan


class FixedLengths:
    """An encoder with fixed lengths: those of the example in docs/memory.md."""

    def prompt_length(self, sample: Sample) -> int:
        return 704

    def num_answer_tokens(self, sample: Sample) -> int:
        return 32


def llava_7b() -> Llava:
    """LLaVA-1.5-7B by its sizes, without a file of it."""
    sizes = LlavaConfig(text_config=LlamaConfig(vocab_size=32064).to_dict(), vision_feature_layer=-2)
    backbone = Llava("7b", quantization="nf4", dtype="bfloat16", activation_checkpointing=True)
    backbone.__dict__["config"] = sizes
    return backbone


def test_the_documented_plan_of_a_7b_model_is_what_is_computed() -> None:
    page = (Path(__file__).parent.parent / "docs" / "memory.md").read_text(encoding="utf-8")
    preset = read_config(find_config("hardware/one_24gb_gpu"))
    settings = preset["model"]["init_args"]["backbone"]["init_args"]
    backbone = llava_7b()
    assert settings == {name: getattr(backbone, name) for name in settings}
    data = ContinualDataModule("cvit-mini", **preset["data"], settings={"num_test": 100})
    data.attach(FixedLengths())  # type: ignore[arg-type]
    method = SMoLoRA(backbone, rank=128, alpha=256)
    plan = plan_memory(method, data, data.stages(seed=0), precision=preset["trainer"]["precision"])
    assert "\n".join(plan.lines()) in page
    assert plan.peak_bytes() < 0.95 * 24e9


def test_a_decoder_in_shards_is_planned_with_a_ranks_part_of_its_layers(llava_folder: Path) -> None:
    backbone = Llava(str(llava_folder))
    whole, half = (
        planned(small_method(llava_folder, SeqLoRA), small_data(), world_size=2, shards=shards)
        for shards in (1, 2)
    )
    layers = [bytes_of(layer.parameters()) for layer in backbone.load().decoder_layers]
    saved = whole.row("held", "decoder").size - half.row("held", "decoder").size
    assert saved == sum(layers) / 2 > 0
    for phase in ("training", "answering"):
        assert half.row(phase, "gathered layers").size == 3 * max(layers)
        assert half.row(phase, "gathered layers").estimated
    assert not [row for row in whole.training if row.name == "gathered layers"]
