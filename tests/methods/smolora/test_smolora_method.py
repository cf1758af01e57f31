"""SMoLoRA as a method: its facts, its presets, its layer inside the real model, what it holds and centres."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import STREAM, Snapshots, fit, quick_data, small_method, snapshot
from transformers import AutoModel, AutoTokenizer

from lit_cvit.adapters import (
    routing,
)
from lit_cvit.data.stage import Stage
from lit_cvit.data.tasks import Batch
from lit_cvit.encoders import MINILM, SentenceEncoder, locate
from lit_cvit.methods import ContinualMethod, SMoLoRA
from lit_cvit.methods.smolora.router import DualRouter
from lit_cvit.stream.trainer import ContinualTrainer

LAYERS = ("decoder.1.mlp.up_proj", "decoder.2.mlp.down_proj", "decoder.0.mlp.gate_proj")


class Watch(Snapshots):
    """Blocks with a gate other than zero in a stage's training, by bank, and the tensors around the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[dict[str, torch.Tensor]] = []

    def on_stage_start(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        super().on_stage_start(trainer, method, stage)
        self.used.append({})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        context = pl_module.context(batch)
        context.trace = {}
        with torch.no_grad(), routing(context):
            pl_module.backbone.forward_hidden(batch)
        for bank, gate in context.trace.items():
            now = (gate != 0).flatten(0, -2).any(0)
            self.used[-1][bank] = self.used[-1].get(bank, torch.zeros_like(now)) | now


@pytest.fixture(scope="module")
def trained(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ContinualMethod, Watch]:
    """Three stages with weight decay, which would move every block that is not held."""
    watch, method = Watch(), small_method(llava_folder, SMoLoRA, decay=0.5)
    fit(tmp_path_factory.mktemp("smolora"), method, quick_data(tasks=STREAM), callbacks=[watch])
    return method, watch


def training_batch(method: ContinualMethod) -> Batch:
    """Padding on the right, answers, two tasks, a sample without an image."""
    tasks = {task.name: task.test for task in quick_data().benchmark.stream}
    samples = [tasks[name].sample(index) for name, index in (("ScienceQA", 0), ("ScienceQA", 4), ("GQA", 1))]
    return method.backbone.encode(samples, with_answers=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_inside_the_model_computes_equations_5_to_9(
    trained: tuple[ContinualMethod, Watch], layer: str
) -> None:
    method = trained[0]
    batch, bank, seen = training_batch(method), method.banks[layer], []
    router = bank.router
    assert isinstance(router, DualRouter)
    handle = bank.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad(), routing(method.context(batch)):
        method.backbone.forward_hidden(batch)
    handle.remove()
    x, output = seen[0]
    instruction = method.sample_facts(batch)["instruction"]
    for row in range(len(batch)):
        mean = x[row][batch.prompt_mask[row]].mean(0)
        vu = bank.block(int((router.R_vu @ mean).argmax()))
        instr = bank.block(4 + int((router.R_if @ instruction[row]).argmax()))
        y_vu = bank.scaling * x[row] @ vu.A.T @ vu.B.T
        y_if = bank.scaling * x[row] @ instr.A.T @ instr.B.T
        weights = torch.stack([y_vu @ router.I_vu, y_if @ router.I_if], dim=-1).softmax(-1)
        expected = bank.base(x[row]) + weights[:, :1] * y_vu + weights[:, 1:] * y_if
        torch.testing.assert_close(output[row], expected, atol=2e-5, rtol=1e-4)
    assert float((output - bank.base(x)).abs().max()) > 1e-3


def test_blocks_that_a_stage_did_not_use_stay_bit_for_bit(trained: tuple[ContinualMethod, Watch]) -> None:
    _, watch = trained
    for used, before, after in zip(watch.used, watch.before, watch.after, strict=True):
        for bank, blocks in used.items():
            for index, in_use in enumerate(blocks.tolist()):
                names = [f"{bank}.blocks.{index}.{part}" for part in "AB"]
                same = [torch.equal(before[name], after[name]) for name in names]
                assert same == ([False, False] if in_use else [True, True]), names
    assert sum(int((~blocks).sum()) for blocks in watch.used[0].values()) > 0


def test_an_instruction_branch_uses_one_block_per_instruction(trained: tuple[ContinualMethod, Watch]) -> None:
    """Single-type: a stage has one instruction, so every layer trains exactly one IF block in it."""
    for used in trained[1].used:
        assert {int(blocks[4:].sum()) for blocks in used.values()} == {1}


def test_drift_lets_decay_move_blocks_that_were_not_used(llava_folder: Path, tmp_path: Path) -> None:
    watch = Watch()
    method = small_method(llava_folder, SMoLoRA, decay=0.5, unrouted="drift")
    fit(tmp_path, method, quick_data(tasks=["GQA"]), callbacks=[watch])
    unused = [
        f"{bank}.blocks.{index}.A"
        for bank, blocks in watch.used[0].items()
        for index, in_use in enumerate(blocks.tolist())
        if not in_use
    ]
    assert unused
    assert not any(torch.equal(watch.before[0][name], watch.after[0][name]) for name in unused)


def facts(method: ContinualMethod, samples: list[Any]) -> torch.Tensor:
    return method.sample_facts(method.backbone.encode(samples, with_answers=False))["instruction"]


def prepared(folder: Path, **settings: Any) -> tuple[ContinualMethod, list[Any]]:
    """The method before any stage, and samples of two tasks under the multi-type instructions."""
    data = quick_data(instructions="multi")
    method = small_method(folder, SMoLoRA, **settings)
    method.set_tasks(data.benchmark.stream)
    tasks = {task.name: task.test for task in data.benchmark.stream}
    first, *others = (tasks["TextVQA"].sample(index) for index in range(5))
    reworded = next(sample for sample in others if sample.instruction != first.instruction)
    return method, [first, tasks["ScienceQA"].sample(1), reworded]


def test_the_paper_preset_reads_the_samples_instruction_and_no_task_name(llava_folder: Path) -> None:
    method, samples = prepared(llava_folder)
    assert isinstance(method, SMoLoRA)
    renamed = [dataclasses.replace(sample, task="something else") for sample in samples]
    assert torch.equal(facts(method, renamed), facts(method, samples))
    expected = method.encoder.encode([sample.instruction for sample in samples])
    assert torch.equal(facts(method, samples), expected)
    assert not torch.equal(expected[0], expected[2])


def test_the_official_preset_reads_the_task_and_no_instruction(llava_folder: Path) -> None:
    method, samples = prepared(llava_folder, preset="official")
    assert isinstance(method, SMoLoRA)
    reworded = [dataclasses.replace(sample, instruction="Say something.") for sample in samples]
    assert torch.equal(facts(method, reworded), facts(method, samples))
    strings = quick_data(instructions="multi").benchmark.task("TextVQA").instructions
    assert len(strings) == 5
    mean = method.encoder.encode(strings).mean(0)
    assert torch.equal(facts(method, samples)[0], mean)
    assert torch.equal(facts(method, samples)[2], mean)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "instruction text, encoder sentence-transformers/all-MiniLM-L6-v2"),
        ({"use_if": False}, "nothing beyond the prompt and image"),
        (
            {"preset": "official"},
            "task id in training, task id at test (oracle), instruction text, "
            "encoder sentence-transformers/all-MiniLM-L6-v2",
        ),
        ({"preset": "official", "use_if": False}, "nothing beyond the prompt and image"),
    ],
)
def test_it_declares_what_its_switches_make_it_know(
    llava_folder: Path, settings: dict[str, Any], words: str
) -> None:
    assert small_method(llava_folder, SMoLoRA, **settings).access.words() == words


def test_the_router_seed_alone_decides_the_routing(llava_folder: Path) -> None:
    def matrices(seed: int) -> dict[str, torch.Tensor]:
        method = small_method(llava_folder, SMoLoRA, router_seed=seed)
        method.prepare()
        return {name: tensor for name, tensor in snapshot(method).items() if ".R_" in name}

    one, same, other = matrices(0), matrices(0), matrices(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_official_preset_draws_the_down_projections_as_the_code_does(llava_folder: Path) -> None:
    def drawn(seed: int, **settings: Any) -> dict[str, torch.Tensor]:
        method = small_method(llava_folder, SMoLoRA, **settings)
        method.prepare()
        method.begin_stage(quick_data().stages(seed=seed)[0])
        return {name: tensor for name, tensor in snapshot(method).items() if name.endswith(".A")}

    official, paper = drawn(0, preset="official"), drawn(0)
    values = torch.cat([tensor.flatten() for tensor in official.values()])
    # Five standard errors of a normal's deviation and mean.
    assert abs(float(values.std()) / 0.01 - 1) < 5 / (2 * len(values)) ** 0.5
    assert abs(float(values.mean())) < 5 * 0.01 / len(values) ** 0.5
    assert float(values.abs().max()) > 0.03
    for name, tensor in paper.items():
        # Uniform, as PEFT draws: kaiming with a = sqrt(5).
        bound = tensor.shape[1] ** -0.5
        assert 0.95 * bound < float(tensor.abs().max()) <= bound, name
        assert float(tensor.std()) == pytest.approx(bound / 3**0.5, rel=0.25), name
    again, other = drawn(0, preset="official"), drawn(1, preset="official")
    assert all(torch.equal(official[name], again[name]) for name in official)
    assert not any(torch.equal(official[name], other[name]) for name in official)


def strings(value: Any) -> set[str]:
    """Every instruction string in a file of instructions."""
    if isinstance(value, str):
        return {value}
    parts = value if isinstance(value, list) else [v for k, v in value.items() if k not in ("note", "orders")]
    return set().union(*map(strings, parts))


def test_every_shipped_instruction_is_routed_as_by_the_reference(llava_folder: Path) -> None:
    files = sorted((resources.files("lit_cvit.data.instructions")).iterdir(), key=lambda file: file.name)
    texts = sorted(
        set().union(*(strings(json.loads(f.read_text())) for f in files if f.name[-5:] == ".json"))
    )
    assert len(texts) > 60
    method = small_method(llava_folder, SMoLoRA)
    method.prepare()
    folder = locate(MINILM).folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        reference = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
    embedded = SentenceEncoder(MINILM).encode(texts)
    torch.testing.assert_close(embedded, reference, rtol=0, atol=2e-6)
    for name, bank in method.banks.items():
        chosen = [(each @ bank.router.R_if.T).argmax(1) for each in (embedded, reference)]
        assert torch.equal(*chosen), name


# -- the centre of instance routing --------------------------------------------------------------------------


class FirstBatch(Callback):
    """Keeps the first micro-batch of the stream, and the means that it gives in the bare model."""

    def __init__(self) -> None:
        super().__init__()
        self.means: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if self.means:
            return
        handles = [
            bank.register_forward_pre_hook(lambda module, inputs: self.note(module, inputs[0], batch))
            for bank in pl_module.banks.values()
        ]
        with torch.no_grad(), routing(pl_module.context(batch)):
            pl_module.backbone.forward_hidden(batch)
        for handle in handles:
            handle.remove()

    def note(self, bank: Any, x: torch.Tensor, batch: Batch) -> None:
        masks = batch.prompt_mask if bank.kind == "decoder" else torch.ones(x.shape[:2], dtype=torch.bool)
        means = [row[mask].mean(0) for row, mask in zip(x, masks, strict=True)]
        self.means[bank.name] = torch.stack(means).mean(0)


def centres(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    end = ".router.vu_center"
    return {name.removesuffix(end): tensor for name, tensor in tensors.items() if name.endswith(end)}


def test_the_centre_is_the_mean_of_the_first_training_batch_for_good(
    llava_folder: Path, tmp_path: Path
) -> None:
    first = FirstBatch()
    method = small_method(llava_folder, SMoLoRA, vu_center=True)
    run = fit(tmp_path, method, callbacks=[first]).run
    after = [centres(run.load_stage(number).tensors) for number in (1, 2)]
    assert after[0].keys() == first.means.keys() == method.banks.keys()
    for name, centre in after[0].items():
        torch.testing.assert_close(centre, first.means[name], atol=1e-6, rtol=1e-5)
        assert torch.equal(after[1][name], centre)


def test_a_run_that_starts_from_another_keeps_its_centre(llava_folder: Path, tmp_path: Path) -> None:
    def one(task: str, **more: Any) -> ContinualTrainer:
        method = small_method(llava_folder, SMoLoRA, vu_center=True)
        return fit(tmp_path, method, quick_data(tasks=[task]), callbacks=[], **more)

    first = one("GQA")
    second = one("VQAv2", start_from=str(first.run.path))
    before, after = (centres(trainer.run.load_stage(1).tensors) for trainer in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_that_the_first_batch_skips_is_centred_by_the_next(llava_folder: Path) -> None:
    method = small_method(llava_folder, SMoLoRA, vu_center=True)
    method.prepare()
    method.begin_stage(quick_data().stages(seed=0)[0])
    source = quick_data().benchmark.stream[0].test
    text, image = (method.backbone.encode([source.sample(index)], with_answers=True) for index in (4, 0))
    method.on_train_batch_start(text, 0)
    first = {name: tensor.clone() for name, tensor in centres(method.tensors()).items()}
    assert {name.split(".")[0] for name, centre in first.items() if not centre.any()} == {"projector"}
    method.on_train_batch_start(image, 1)
    second = centres(method.tensors())
    assert all(bool(centre.any()) for centre in second.values())
    assert all(torch.equal(second[name], first[name]) for name in first if name.startswith("decoder"))


def test_without_the_option_there_is_no_centre(trained: tuple[ContinualMethod, Watch]) -> None:
    assert centres(snapshot(trained[0])) == {}
