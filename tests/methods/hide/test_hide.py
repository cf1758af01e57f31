"""HiDe as a method: its anchors, and what each layer does in training and at test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from stream_kit import STREAM, KillAt, Killed, differing, fit, quick_data, small_method
from torch.nn.functional import cosine_similarity

from callbacks import Replay
from lit_cvit.adapters import routing
from lit_cvit.data.restricted import restrict_batch
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.encoders import SentenceEncoder
from lit_cvit.methods import HiDe
from lit_cvit.run import RunFolder

TOP, LOW, PROJECTOR = "decoder.2.mlp.down_proj", "decoder.0.mlp.gate_proj", "projector.linear_1"
HIDDEN, SENTENCE = 64, 384
DATA = quick_data(tasks=STREAM)


class Learned(NamedTuple):
    run: RunFolder
    method: HiDe


@pytest.fixture(scope="module")
def learned(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    method = small_method(llava_folder, HiDe)
    assert isinstance(method, HiDe)
    run = fit(tmp_path_factory.mktemp("hide"), method, DATA, callbacks=[]).run
    return Learned(run, method.eval())


def again(learned: Learned, folder: Path, **settings: Any) -> HiDe:
    """The same blocks and anchors under other settings, with B large enough to tell every formula apart."""
    method = small_method(folder, HiDe, **settings)
    assert isinstance(method, HiDe)
    method.prepare()
    for number in range(1, len(STREAM) + 1):
        method.follow_plan(learned.run.record.stage(number).plan)
    stored, generator = learned.run.load_stage(len(STREAM)).tensors, torch.Generator().manual_seed(5)
    for name, tensor in stored.items():
        if name.endswith(".B"):
            tensor += torch.empty(tensor.shape).normal_(std=0.05, generator=generator)
    method.load_tensors({name: stored[name] for name in method.tensors()})
    return method.eval()


def mixed() -> list[Sample]:
    """Two learned tasks, a sample without an image, and a task that was never learned."""
    tasks = {task.name: task.test for task in DATA.benchmark.stream}
    picks = (("ScienceQA", 0), ("ScienceQA", 4), ("GQA", 1), ("Flickr30k", 2), ("VQAv2", 3))
    return [tasks[name].sample(index) for name, index in picks]


def image_feature(method: HiDe, sample: Sample) -> torch.Tensor:
    """LLaVA's tower reads its last layer but one, without the class token."""
    pixels = method.backbone.encode([sample], with_answers=False).inputs["pixel_values"]
    states = method.backbone.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[-2][0, 1:].mean(0)


@pytest.fixture(scope="module")
def means(learned: Learned) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Eq. 2, sample by sample: every task's text and image anchor."""
    encoder = SentenceEncoder()
    train = [[task.train.sample(n) for n in range(len(task.train))] for task in DATA.stream if task.train]
    texts = [encoder.encode([s.user_text for s in task]).mean(0) for task in train]
    with torch.no_grad():
        images = [
            torch.stack([image_feature(learned.method, s) for s in task if s.image]).mean(0) for task in train
        ]
    return texts, images


def transcribed_weights(
    method: HiDe, means: tuple[list[torch.Tensor], list[torch.Tensor]], modalities: str
) -> torch.Tensor:
    """Eq. 4, sample by sample and task by task."""
    (texts, images), encoder, rows = means, SentenceEncoder(), []
    for sample in mixed():
        text = encoder.encode([f"{sample.question}\n{sample.instruction}".strip()])[0]
        row = [cosine_similarity(text, anchor, dim=0) for anchor in texts]
        if sample.image is not None:
            seen = [cosine_similarity(image_feature(method, sample), anchor, dim=0) for anchor in images]
            row = seen if modalities == "image" else row
            row = [0.5 * a + 0.5 * b for a, b in zip(seen, row, strict=True)] if modalities == "both" else row
        elif modalities == "image":
            row = [torch.tensor(0.0)] * 3
        rows.append((torch.stack(row) / 0.1).softmax(0))
    return torch.stack(rows)


@pytest.mark.parametrize("modalities", ["both", "image", "text"])
@torch.no_grad()
def test_the_weights_are_those_of_equations_2_and_4(
    learned: Learned,
    means: tuple[list[torch.Tensor], list[torch.Tensor]],
    llava_folder: Path,
    modalities: str,
) -> None:
    method = again(learned, llava_folder, anchors=modalities)
    batch = method.backbone.encode(mixed(), with_answers=False)
    weights = method.task_weights(batch)
    expected = transcribed_weights(method, means, modalities)
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-3)
    assert float(expected.std(0).max()) > 0.01
    names = {name.split(".")[1] for name in method.extra_tensors()}
    assert names == ({"image", "text"} if modalities == "both" else {modalities})


def test_a_sample_has_the_same_weights_in_every_batch(learned: Learned) -> None:
    method = learned.method
    together = method.task_weights(method.backbone.encode(mixed(), with_answers=False))
    for row, sample in zip(together, mixed(), strict=True):
        alone = method.task_weights(method.backbone.encode([sample], with_answers=False))
        torch.testing.assert_close(alone[0], row, atol=1e-5, rtol=1e-4)


# -- layers --------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def outputs(method: HiDe, batch: Batch) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        seen[module.name] = Seen(inputs[0], output)

    handles = [bank.register_forward_hook(keep) for bank in method.banks.values()]
    with torch.no_grad(), routing(method.context(batch)):
        method.backbone.forward_hidden(batch)
    for handle in handles:
        handle.remove()
    return seen


def added(method: HiDe, layer: str, x: torch.Tensor, role: str, weights: torch.Tensor) -> torch.Tensor:
    """What a sample's LoRA adds to the layer's output, with every block formed."""
    bank = method.banks[layer]
    A, B = ([getattr(block, part).detach() for block in bank.lora_blocks()] for part in "AB")
    epsilon = method.epsilon if isinstance(method.epsilon, list) else [method.epsilon] * len(A)
    if role == "bare":
        return torch.zeros(len(x), bank.out_features)
    if role == "product":
        fused_a = sum(e * a for e, a in zip(epsilon, A, strict=True))
        fused_b = sum(e * b for e, b in zip(epsilon, B, strict=True))
        return bank.scaling * x @ fused_a.T @ fused_b.T
    by_block = weights.tolist() if role == "expand" else epsilon
    return bank.scaling * sum(w * x @ a.T @ b.T for w, a, b in zip(by_block, A, B, strict=True))


LAYERS = [
    ({}, {TOP: "expand", LOW: "fuse", PROJECTOR: "fuse"}),
    ({"fusion": "product_of_sums"}, {TOP: "expand", LOW: "product", PROJECTOR: "product"}),
    ({"epsilon": [1.0, 0.5, -2.0]}, {TOP: "expand", LOW: "fuse"}),
    ({"epsilon": [1.0, 0.5, -2.0], "fusion": "product_of_sums"}, {LOW: "product"}),
    ({"epsilon": 0.5, "fusion": "product_of_sums"}, {LOW: "product"}),
    ({"expand": [0], "fuse": [1]}, {LOW: "expand", PROJECTOR: "expand", TOP: "bare"}),
    ({"expand": [], "fuse": "below_top"}, {LOW: "fuse", TOP: "bare"}),
    ({"expand": "below_top", "fuse": []}, {LOW: "expand", TOP: "bare"}),
    ({"expand": "top", "fuse": []}, {TOP: "expand", LOW: "bare", PROJECTOR: "bare"}),
    ({"expand": "all"}, {TOP: "expand", LOW: "expand", PROJECTOR: "expand"}),
]


@pytest.mark.parametrize(("settings", "roles"), LAYERS, ids=[str(case[0]) for case in LAYERS])
@pytest.mark.parametrize("with_answers", [False, True])
def test_a_layer_inside_the_model_computes_what_its_role_says(
    learned: Learned, llava_folder: Path, settings: dict[str, Any], roles: dict[str, str], with_answers: bool
) -> None:
    method = again(learned, llava_folder, **settings)
    batch = method.backbone.encode(mixed(), with_answers=with_answers)
    weights = method.task_weights(batch)
    seen = outputs(method, batch)
    for layer, role in roles.items():
        x, y = seen[layer]
        samples = batch.image_rows.tolist() if layer == PROJECTOR else range(len(batch))
        for row, sample in enumerate(samples):
            expected = added(method, layer, x[row], role, weights[sample])
            got = y[row] - method.banks[layer].base(x[row])
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-3)
            assert role == "bare" or float(expected.abs().max()) > 0.01


@pytest.mark.parametrize("settings", [{}, {"fusion": "product_of_sums"}, {"expand": "all"}, {"fuse": []}])
def test_in_training_every_layer_uses_the_newest_block_alone(
    learned: Learned, llava_folder: Path, settings: dict[str, Any]
) -> None:
    method = again(learned, llava_folder, **settings)
    batch = method.backbone.encode(mixed(), with_answers=True)
    method.train()
    for layer, (x, y) in outputs(method, batch).items():
        block = method.banks[layer].block(-1)
        expected = method.banks[layer].base(x) + method.banks[layer].scaling * x @ block.A.T @ block.B.T
        torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-4)


def test_a_method_in_training_answers_as_at_test(learned: Learned, llava_folder: Path) -> None:
    method = again(learned, llava_folder)
    batch = method.backbone.encode(mixed(), with_answers=False)
    at_test = method.context(batch).gates[TOP]
    assert torch.equal(method.train().context(batch).gates[TOP], at_test)


def test_what_a_stage_learned_is_kept_bit_for_bit(learned: Learned) -> None:
    first, last = (learned.run.load_stage(number).tensors for number in (1, 3))
    for name, tensor in first.items():
        stored = last[name][:1] if name.startswith("anchors.") else last[name]
        assert torch.equal(stored, tensor), name
    blocks = {name for name in last if ".blocks." in name}
    assert len(blocks) == 3 * len([name for name in first if ".blocks." in name])


def test_a_full_projector_is_one_for_all_tasks_and_trains_on(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, HiDe, projector="full")
    run = fit(tmp_path, method, quick_data(), callbacks=[]).run
    first, last = (run.load_stage(number).tensors for number in (1, 2))
    copies = [name for name in first if name.startswith("projector.")]
    assert copies == [name for name in last if name.startswith("projector.")]
    assert {name.split(".")[2] for name in copies} == {"0"}
    assert not any(torch.equal(first[name], last[name]) for name in copies)


# -- anchors -------------------------------------------------------------------------------------------------


def test_every_training_sample_is_counted_once(learned: Learned) -> None:
    tensors = learned.run.load_stage(3).tensors
    texts = [len(task.train) for task in DATA.stream if task.train]
    images = [
        sum(task.train.sample(n).image is not None for n in range(len(task.train)))
        for task in DATA.stream
        if task.train
    ]
    assert tensors["anchors.text.counts"].tolist() == texts == [8, 8, 8]
    assert tensors["anchors.image.counts"].tolist() == images
    assert images[0] < 8
    assert tensors["anchors.text.sums"].shape == (3, SENTENCE)
    assert tensors["anchors.image.sums"].shape == (3, HIDDEN)


def begun(folder: Path, stages: int = 1, **settings: Any) -> HiDe:
    method = small_method(folder, HiDe, **settings)
    assert isinstance(method, HiDe)
    method.prepare()
    for stage in DATA.stages(seed=0)[:stages]:
        method.begin_stage(stage)
    return method


def test_fillers_and_later_epochs_do_not_count(llava_folder: Path) -> None:
    method = begun(llava_folder)
    batch = method.backbone.encode(mixed(), with_answers=True)
    assert batch.answer_mask is not None
    batch.answer_mask[4] = False
    for epoch in (0, 1, 2):
        method._trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
        method.observe(batch)
    assert method.extra_tensors()["anchors.text.counts"].tolist() == [4]
    assert method.extra_tensors()["anchors.image.counts"].tolist() == [3]


@pytest.mark.parametrize("form", ["rows", "term"])
def test_replayed_rows_do_not_count_for_the_task_that_is_learned(
    learned: Learned, llava_folder: Path, tmp_path: Path, form: Any
) -> None:
    """The anchors are those of a run without replay; only the order of the sums differs."""
    method = small_method(llava_folder, HiDe)
    replay = Replay(form=form, amount=5)
    trainer = fit(tmp_path, method, quick_data(tasks=STREAM), callbacks=[replay])
    assert [stage.num_steps for stage in trainer.stages] == ([2, 4, 5] if form == "rows" else [2, 2, 2])
    alone, beside = (run.load_stage(3).tensors for run in (learned.run, trainer.run))
    names = [name for name in alone if name.startswith("anchors.")]
    assert len(names) == 4
    for name in names:
        torch.testing.assert_close(beside[name], alone[name], rtol=1e-4, atol=1e-4)
    assert beside["anchors.text.counts"].tolist() == [8, 8, 8]


def test_a_resume_inside_a_stage_counts_no_sample_twice(llava_folder: Path, tmp_path: Path) -> None:
    runs = []
    for name, callbacks, ckpt in (("a", [], None), ("b", [KillAt(1)], None), ("b", [], "last")):
        method = small_method(llava_folder, HiDe)
        arguments: dict[str, Any] = {"checkpoint_every_n_steps": 1, "ckpt_path": ckpt, "callbacks": callbacks}
        data = quick_data(tasks=["GQA"], epochs=2)
        if callbacks:
            with pytest.raises(Killed):
                fit(tmp_path / name, method, data, **arguments)
        else:
            runs.append(fit(tmp_path / name, method, data, **arguments).run)
    whole, resumed = (run.load_stage(1).tensors for run in runs)
    assert resumed["anchors.text.counts"].tolist() == [8]
    assert differing(whole, resumed) == []


def test_it_reads_nothing_of_a_sample_but_prompt_and_image(learned: Learned) -> None:
    method = learned.method
    batch = method.backbone.encode(mixed(), with_answers=False)
    renamed = [dataclasses.replace(s, id="?", task="?", answers=("?",)) for s in mixed()]
    expected = method.task_weights(batch)
    for samples in (renamed, restrict_batch(batch, method.access.hidden(test=True)).samples):
        assert torch.equal(method.task_weights(dataclasses.replace(batch, samples=samples)), expected)
    asked = [dataclasses.replace(s, question="Something else?", text="") for s in mixed()]
    changed = method.task_weights(dataclasses.replace(batch, samples=asked))
    assert not torch.allclose(changed, expected, atol=1e-3)


def test_the_temperature_and_the_shares_reach_the_weights(learned: Learned, llava_folder: Path) -> None:
    plain = learned.method.task_weights(learned.method.backbone.encode(mixed(), with_answers=False))
    logits = plain.log()
    hot = again(learned, llava_folder, temperature=0.2)
    batch = hot.backbone.encode(mixed(), with_answers=False)
    got = hot.task_weights(batch)
    torch.testing.assert_close(got, (logits / 2).softmax(-1), atol=1e-5, rtol=1e-3)
    by_text = again(learned, llava_folder, image_weight=0.0, text_weight=1.0)
    text_alone = again(learned, llava_folder, anchors="text").task_weights(batch)
    torch.testing.assert_close(by_text.task_weights(batch), text_alone)
    assert not torch.allclose(text_alone, plain, atol=1e-3)
