"""ProgLoRA: fused blocks, gates by keys, what it reads and trains, and what becomes of old answers."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from prog_kit import (
    LAYERS,
    MIXED,
    HashedTexts,
    begun,
    hashed_texts,  # noqa: F401
    mixed_batch,
    prog_lora,
    require_fusion,
    static,
)
from stream_kit import STREAM, fit, small_data

from callbacks import Replay, StageEvaluation
from lit_cvit.backbones import Llava
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.encoders import MINILM
from lit_cvit.methods import ProgLoRADynamic, ProgLoRAStatic
from lit_cvit.methods.prog_lora.base import ProgLoRABase
from lit_cvit.methods.task_embedding import TaskEmbedder

FORMS = (ProgLoRAStatic, ProgLoRADynamic)
OWN = {"ScienceQA": 0, "GQA": 1, "VQAv2": 2}


# -- how alike tasks are -------------------------------------------------------------------------------------


def test_a_task_is_embedded_by_the_means_of_its_images_instructions_and_first_answers(
    llava_folder: Path,
) -> None:
    method = static(llava_folder)
    method.prepare()
    source = small_data().stream[0].train
    assert source is not None
    got = TaskEmbedder("tower", "hashed", 20).embed(method.backbone, source)
    chosen = [source.sample(row) for row in evenly_spaced(32, 20)]
    images = [each for each in chosen if each.image is not None]
    assert 0 < len(images) < 20
    features = [
        method.backbone.image_features(method.backbone.encode([each], with_answers=False)) for each in images
    ]
    texts = HashedTexts()
    expected = {
        "image": torch.cat(features).double().mean(0),
        "instruction": texts.encode([each.user_text for each in chosen]).double().mean(0),
        "answer": texts.encode([each.answers[0] for each in chosen]).double().mean(0),
    }
    for modality, vector in expected.items():
        torch.testing.assert_close(got[modality], vector, atol=1e-6, rtol=1e-5)


def test_replayed_rows_are_no_part_of_a_tasks_embedding(llava_folder: Path, tmp_path: Path) -> None:
    found = {}
    for recall, callbacks in (("none", []), ("callback", [Replay(form="rows", amount=12)])):
        method = static(llava_folder, recall=recall)
        trainer = fit(tmp_path / recall, method, small_data(tasks=STREAM), callbacks=callbacks)
        found[recall] = [stage.num_steps for stage in trainer.stages], method.compared.embeddings
    assert (found["none"][0], found["callback"][0]) == ([2, 2, 2], [2, 3, 4])
    for one, other in zip(found["none"][1], found["callback"][1], strict=True):
        assert {name: one[name].tolist() for name in one} == {name: other[name].tolist() for name in other}


def test_weights_are_the_cosines_of_the_saved_embeddings_and_stand_in_the_plan(llava_folder: Path) -> None:
    method = begun(static(llava_folder))
    saved = method.tensors()

    def weight(p: int, i: int) -> float:
        pairs = [
            (saved[f"task_embeddings.{p}.{m}"], saved[f"task_embeddings.{i}.{m}"])
            for m in ("image", "instruction", "answer")
        ]
        return math.prod(float(a @ b / (a.norm() * b.norm())) for a, b in pairs)

    expected = [[1.0], [weight(0, 1), 1.0], [weight(0, 2), weight(1, 2), 1.0]]
    for got, row in zip(method.fusion, expected, strict=True):
        assert got == pytest.approx(row, rel=1e-9)
    assert 0 < weight(0, 1) < 1
    assert method.similarities() == dict(zip(STREAM[:2], method.fusion[2], strict=False))


def test_a_method_that_follows_the_plans_again_has_the_same_weights_and_tensors(llava_folder: Path) -> None:
    for form in FORMS:
        first, again = prog_lora(llava_folder, form), prog_lora(llava_folder, form)
        first.prepare()
        again.prepare()
        plans = [first.begin_stage(stage) for stage in small_data(tasks=STREAM).stages(seed=0)]
        for plan in plans:
            again.follow_plan(plan)
        again.load_tensors(first.tensors())
        assert again.learned == first.learned == STREAM
        assert again.similarities() == first.similarities()
        facts = [each.eval().sample_facts(mixed_batch(each))["gate"] for each in (first, again)]
        assert torch.equal(*facts)


# -- static --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("static_weights", ["similarity", "ones"])
def test_a_sample_gets_its_tasks_fused_block_and_no_later_one(
    llava_folder: Path, layer: str, static_weights: Any
) -> None:
    """In a mixed batch; a task that was never learned gets the newest task's."""
    method = begun(static(llava_folder, static_weights=static_weights)).eval()
    w = {(p, i): method.similarities()[STREAM[p]] for p, i in ((0, 2), (1, 2))} | {
        (0, 1): method.fusion[1][0]
    }
    if static_weights == "ones":
        w = dict.fromkeys(w, 1.0)
    fused = [[1.0, 0.0, 0.0], [w[0, 1], 1.0, 0.0], [w[0, 2], w[1, 2], 1.0]]
    require_fusion(method, mixed_batch(method), layer, [fused[OWN.get(name, 2)] for name, _ in MIXED])


def test_training_rows_of_old_tasks_go_through_the_current_block_or_their_own(llava_folder: Path) -> None:
    current = begun(static(llava_folder))
    own = begun(static(llava_folder, replay_block="own"))
    gates = [method.sample_facts(mixed_batch(method, with_answers=True))["gate"] for method in (current, own)]
    assert gates[0].tolist() == [gates[0][1].tolist()] * 5
    assert torch.equal(gates[1], own.eval().sample_facts(mixed_batch(own))["gate"])
    assert torch.equal(gates[0][1], gates[1][1])


def test_before_its_first_stage_it_is_the_backbone(llava_folder: Path) -> None:
    for form in FORMS:
        method = prog_lora(llava_folder, form).eval()
        method.prepare()
        assert method.sample_facts(mixed_batch(method)) == {}
        assert len(method.generate(mixed_batch(method), max_new_tokens=2)) == 5


def test_without_similarity_there_is_no_encoder_and_no_embedding(llava_folder: Path) -> None:
    method = begun(static(llava_folder, static_weights="ones", recall="none"))
    assert method.measures is False
    assert [name for name in method.tensors() if "embedding" in name] == []
    assert method.fusion == [[1.0], [1.0, 1.0], [1.0, 1.0, 1.0]]


# -- what it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "settings", "words", "needs"),
    [
        (
            ProgLoRAStatic,
            {},
            f"task id in training, task id at test (oracle), old data, encoder {MINILM}",
            ("Replay",),
        ),
        (
            ProgLoRAStatic,
            {"recall": "none", "static_weights": "ones"},
            "task id in training, task id at test (oracle)",
            (),
        ),
        (ProgLoRADynamic, {}, f"old data, encoder {MINILM}", ("TaskRecall",)),
        (ProgLoRADynamic, {"text_encoder": None}, "old data", ("TaskRecall",)),
        (ProgLoRADynamic, {"recall": "none"}, "nothing beyond the prompt and image", ()),
    ],
)
def test_it_declares_what_it_reads_and_needs(
    llava_folder: Path, form: Any, settings: dict[str, Any], words: str, needs: tuple[str, ...]
) -> None:
    method = prog_lora(llava_folder, form, **settings)
    assert method.access.words() == words
    assert method.requires_callbacks == needs


@pytest.mark.parametrize(("form", "needed"), [(ProgLoRAStatic, "Replay"), (ProgLoRADynamic, "TaskRecall")])
def test_it_does_not_start_without_its_callback(
    llava_folder: Path, tmp_path: Path, form: Any, needed: str
) -> None:
    with pytest.raises(ValueError, match=f"{form.__name__} as configured needs the callback {needed}"):
        fit(tmp_path, prog_lora(llava_folder, form))


@pytest.mark.parametrize(
    ("form", "settings", "parts"),
    [
        (ProgLoRAStatic, {"recall": "no"}, ("model.recall", "callback, none", "'no'")),
        (ProgLoRAStatic, {"static_weights": "two"}, ("model.static_weights", "similarity, ones", "'two'")),
        (ProgLoRAStatic, {"replay_block": "x"}, ("model.replay_block", "current, own", "'x'")),
        (ProgLoRADynamic, {"similarity_transform": "x"}, ("model.similarity_transform", "none, tir", "'x'")),
        (ProgLoRADynamic, {"pool": "x"}, ("model.pool", "max, mean", "'x'")),
        (ProgLoRADynamic, {"kl_direction": "x"}, ("model.kl_direction", "forward, reverse", "'x'")),
        (ProgLoRADynamic, {"proj_dim": 0}, ("model.proj_dim", "at least 1", "0")),
        (ProgLoRADynamic, {"similarity_samples": 0}, ("model.similarity_samples", "at least 1", "0")),
        (ProgLoRADynamic, {"temperature": 0.0}, ("model.temperature", "more than 0", "0.0")),
        (ProgLoRADynamic, {"key_std": -1.0}, ("model.key_std", "more than 0", "-1.0")),
        (ProgLoRAStatic, {"text_encoder": None}, ("model.static_weights", "model.text_encoder", "null")),
    ],
)
def test_settings_out_of_range_are_refused(
    llava_folder: Path, form: Any, settings: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, parts))):
        prog_lora(llava_folder, form, **settings)


@pytest.mark.parametrize("form", FORMS)
def test_no_option_belongs_to_the_other_form(form: Any) -> None:
    own = {other: set(inspect.signature(other).parameters) for other in FORMS}
    shared = set(inspect.signature(ProgLoRABase).parameters)
    (other,) = set(FORMS) - {form}
    assert own[form] & own[other] <= shared
    for option in own[other] - shared:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            form(Llava("nowhere"), **{option: "x"})


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        (
            ProgLoRAStatic,
            {"static_weights": "ones", "recall": "none", "similarity_transform": "tir"},
            "model.similarity_transform has no effect where no similarity is measured",
        ),
        (
            ProgLoRADynamic,
            {"alpha": 32},
            "model.alpha has no effect beside model.scaling 2.0; set that to null to scale by alpha / rank",
        ),
        (
            ProgLoRAStatic,
            {"replay_block": "own", "projector": "lora"},
            "model.replay_block has no effect on old rows that train nothing (projector: lora)",
        ),
        (ProgLoRAStatic, {}, None),
        (ProgLoRAStatic, {"replay_block": "own"}, None),
        (
            ProgLoRADynamic,
            {"pool": "mean", "kl_direction": "reverse", "similarity_transform": "tir"},
            None,
        ),
        (ProgLoRADynamic, {"alpha": 32, "scaling": None}, None),
    ],
)
def test_a_setting_without_effect_is_named(
    llava_folder: Path, form: Any, settings: dict[str, Any], message: str | None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prog_lora(llava_folder, form, **settings)
    assert [str(each.message) for each in caught] == ([] if message is None else [message])


def test_scaling_is_two_or_alpha_over_rank(llava_folder: Path) -> None:
    factors = []
    for settings in ({}, {"scaling": None, "alpha": 16}, {"scaling": 3.0, "alpha": 96}):
        method = static(llava_folder, **settings)
        method.prepare()
        factors.append({bank.scaling for bank in method.banks.values()})
    assert factors == [{2.0}, {0.5}, {3.0}]


# -- in a stream ---------------------------------------------------------------------------------------------


def test_old_static_answers_change_with_the_shared_projector_alone(
    llava_folder: Path, tmp_path: Path
) -> None:
    """A projector of blocks freezes with each task, so what a task answers is fixed when it ends."""
    answers = {}
    for projector in ("lora", "full"):
        method = static(llava_folder, projector=projector)
        data = small_data(tasks=STREAM[:2], settings={"num_train": 16})
        run = fit(
            tmp_path / projector, method, data, callbacks=[Replay(), StageEvaluation(downstream=False)]
        ).run
        first, last = (run.load_stage(number).tensors for number in (1, 2))
        moved = [name for name in first if not torch.equal(first[name], last[name])]
        answers[projector] = (moved, run.predictions_path(1, STREAM[0]).read_bytes())
        if projector == "lora":
            assert run.predictions_path(2, STREAM[0]).read_bytes() == answers[projector][1]
    assert answers["lora"][0] == []
    assert len(answers["full"][0]) == 4
    assert all(name.startswith("projector.copies.0.") for name in answers["full"][0])


def test_a_run_that_starts_from_another_weights_its_blocks_too(llava_folder: Path, tmp_path: Path) -> None:
    def one(task: str, **more: Any) -> tuple[ProgLoRAStatic, str]:
        method = static(llava_folder)
        data = small_data(tasks=[task], settings={"num_train": 16})
        return method, str(fit(tmp_path, method, data, callbacks=[Replay()], **more).run.path)

    _, path = one("GQA")
    method, _ = one("VQAv2", start_from=path)
    whole = static(llava_folder)
    whole.prepare()
    for stage in small_data(tasks=["GQA", "VQAv2"], settings={"num_train": 16}).stages(seed=0):
        whole.begin_stage(stage)
    assert method.learned == ["GQA", "VQAv2"]
    assert method.fusion == whole.fusion
    assert 0 < method.fusion[1][0] < 1
