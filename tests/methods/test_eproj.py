"""EProj: when projectors expand, which one a sample goes through, and what a stage trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prog_kit import MIXED, HashedTexts, samples
from stream_kit import STREAM, Snapshots, fit, log_rows, quick_data, small_data, small_method

from lit_cvit.adapters import routing
from lit_cvit.data.sampling import evenly_spaced
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import EProj, prompt_features, task_embedding
from lit_cvit.run import RunFolder

SAMPLES = 12


@pytest.fixture(autouse=True, scope="module")
def hashed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (task_embedding, prompt_features):
            patch.setattr(module, "text_encoder", HashedTexts)
        yield


def eproj(folder: Path, **settings: Any) -> EProj:
    method = small_method(folder, EProj, **{"similarity_samples": SAMPLES, **settings})
    assert isinstance(method, EProj)
    return method


def begun(folder: Path, **settings: Any) -> tuple[EProj, list[dict[str, Any]]]:
    """A method in the third stage, untrained but with projectors that differ; and the plans."""
    method = eproj(folder, **settings)
    method.prepare()
    plans = [method.begin_stage(stage) for stage in small_data(tasks=STREAM).stages(seed=0)]
    generator = torch.Generator().manual_seed(3)
    for name, tensor in method.tensors().items():
        if ".copies." in name or name.endswith(".B"):
            tensor.data.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return method.eval(), plans


def mixed_batch(method: EProj, *, with_answers: bool = False) -> Batch:
    return method.backbone.encode(samples(*MIXED), with_answers=with_answers)


def embedded(method: EProj, task: int) -> dict[str, np.ndarray]:
    """Image and text features of the samples that a task is embedded by, one at a time."""
    source = small_data().benchmark.task(STREAM[task]).train
    assert source is not None
    chosen = [source.sample(row) for row in evenly_spaced(32, SAMPLES)]
    batches = [method.backbone.encode([each], with_answers=False) for each in chosen if each.image]
    return {
        "image": torch.cat([method.backbone.image_features(batch) for batch in batches]).double().numpy(),
        "instruction": HashedTexts().encode([each.user_text for each in chosen]).double().numpy(),
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


# -- keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "instruction"])
def test_keys_are_what_the_published_training_of_keys_ends_at(llava_folder: Path, modality: Any) -> None:
    """2000 steps at 0.01 on 0.1 * the sum of 1 - cosine, from a uniform draw; queries are detached."""
    method, _ = begun(llava_folder)
    for task in range(3):
        queries = torch.from_numpy(embedded(method, task)[modality])
        drawn = torch.rand(queries.shape[1], generator=torch.Generator().manual_seed(0))
        key = drawn.double().requires_grad_()
        optimizer = torch.optim.Adam([key], lr=1e-2)
        for _ in range(2000):
            optimizer.zero_grad()
            loss = 0.1 * (1 - torch.cosine_similarity(queries, key.unsqueeze(0))).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        trained = torch.nn.functional.normalize(key.detach(), dim=0).float()
        torch.testing.assert_close(method.keys(modality)[task], trained, atol=2e-3, rtol=0)


def test_a_sample_goes_through_the_projector_whose_keys_are_nearest(llava_folder: Path) -> None:
    """In a mixed batch, with one sample of text alone and one of a task that was never learned."""
    method, _ = begun(llava_folder)
    tasks = [embedded(method, task) for task in range(3)]
    keys = {m: unit(np.stack([unit(each[m]).sum(0) for each in tasks])) for m in ("image", "instruction")}
    expected = []
    for sample in samples(*MIXED):
        one = method.backbone.encode([sample], with_answers=False)
        score = keys["instruction"] @ unit(HashedTexts().encode([sample.user_text])[0].double().numpy())
        if sample.image is not None:
            score = score + keys["image"] @ unit(method.backbone.image_features(one)[0].double().numpy())
        expected.append(int(score.argmax()))
    facts = method.sample_facts(mixed_batch(method, with_answers=True))
    assert list(facts) == ["projector"]
    assert facts["projector"].tolist() == expected
    assert len(set(expected)) > 1


def test_each_sample_of_a_mixed_batch_is_answered_as_it_is_alone(llava_folder: Path) -> None:
    method, _ = begun(llava_folder, lora="own")
    batch = mixed_batch(method, with_answers=True)
    assert torch.equal(method.sample_facts(batch)["gate"], torch.eye(3)[method.nearest(batch)])
    with torch.no_grad():
        with routing(method.context(batch)):
            together = method.backbone.answer_logits(batch)
        for row, sample in enumerate(samples(*MIXED)):
            one = method.backbone.encode([sample], with_answers=True)
            with routing(method.context(one)):
                alone = method.backbone.answer_logits(one).logits
            torch.testing.assert_close(together.logits[together.rows == row], alone, atol=1e-4, rtol=1e-4)


def test_in_training_all_samples_go_through_the_projector_of_the_stage(llava_folder: Path) -> None:
    method, _ = begun(llava_folder)
    facts = method.train().sample_facts(mixed_batch(method, with_answers=True))
    assert facts["projector"].tolist() == [2] * 5


def test_before_its_first_stage_it_is_the_backbone(llava_folder: Path) -> None:
    method = eproj(llava_folder).eval()
    method.prepare()
    assert method.sample_facts(mixed_batch(method))["projector"].tolist() == [-1] * 5


# -- clusters ------------------------------------------------------------------------------------------------


def test_projectors_expand_only_below_the_threshold_else_the_nearest_trains_on(llava_folder: Path) -> None:
    _, plans = begun(llava_folder)
    one, (other, last) = plans[1]["similarity"][0], plans[2]["similarity"]
    assert [plan["cluster"] for plan in plans] == [0, 1, 2]
    assert max(one, other, last) < 1
    nearest = 0 if other > last else 1
    # Just above all but the highest, then at the highest itself, then below all.
    for threshold, expected in (
        (1.0, [0, 1, 2]),
        (max(other, last), [0, 0 if one >= max(other, last) else 1, None]),
        (0.0, [0, 0, 0]),
    ):
        method, found = begun(llava_folder, threshold=threshold)
        clusters = [plan["cluster"] for plan in found]
        expected[2] = clusters[nearest] if expected[2] is None else expected[2]
        assert clusters == expected
        assert [plan["new_projector"] for plan in found] == [
            number not in clusters[:place] for place, number in enumerate(clusters)
        ]
        assert method.projector_bank is not None
        assert len(method.projector_bank.copies) == max(clusters) + 1
        assert [
            p.requires_grad for copy in method.projector_bank.copies for p in [next(copy.parameters())]
        ] == [number == clusters[-1] for number in range(max(clusters) + 1)]


def test_a_projector_that_was_trained_on_has_all_its_tasks_in_its_keys(llava_folder: Path) -> None:
    method, _ = begun(llava_folder, threshold=0.0)
    means = [unit(embedded(method, task)["instruction"]).mean(0) for task in range(3)]
    np.testing.assert_allclose(
        method.keys("instruction")[0], unit(np.sum(means, axis=0)), rtol=1e-4, atol=1e-6
    )
    assert method.clusters == [[0, 1, 2]]


def test_a_method_that_follows_the_plans_again_has_the_same_keys_and_clusters(llava_folder: Path) -> None:
    first, plans = begun(llava_folder, lora="own")
    again = eproj(llava_folder, lora="own").eval()
    again.prepare()
    for plan in plans:
        again.follow_plan(plan)
    again.load_tensors(first.tensors())
    assert again.clusters == first.clusters
    assert torch.equal(again.keys("image"), first.keys("image"))
    assert torch.equal(again.nearest(mixed_batch(again)), first.nearest(mixed_batch(first)))


# -- training ------------------------------------------------------------------------------------------------


def stages(root: Path, folder: Path, **settings: Any) -> tuple[Snapshots, RunFolder]:
    seen = Snapshots()
    run = fit(root, eproj(folder, **settings), quick_data(tasks=STREAM), callbacks=[seen]).run
    return seen, run


@pytest.mark.parametrize(
    ("lora", "threshold", "moving"),
    [
        # What moves in every stage: projector copies, blocks.
        ("none", 1.0, [({0}, set()), ({1}, set()), ({2}, set())]),
        ("none", 0.0, [({0}, set())] * 3),
        ("own", 1.0, [({0}, {0}), ({1}, {1}), ({2}, {2})]),
        ("own", 0.0, [({0}, {0})] * 3),
        ("shared", 1.0, [({0}, {0}), ({1}, {0}), ({2}, {0})]),
    ],
)
def test_a_stage_trains_its_projector_and_its_block_alone(
    llava_folder: Path, tmp_path: Path, lora: str, threshold: float, moving: list[tuple[set[int], set[int]]]
) -> None:
    seen, run = stages(tmp_path, llava_folder, lora=lora, threshold=threshold)
    for before, after, (copies, blocks) in zip(seen.before, seen.after, moving, strict=True):
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert {
            int(name.split(".copies.")[1].split(".")[0]) for name in moved if ".copies." in name
        } == copies
        assert {
            int(name.split(".blocks.")[1].split(".")[0]) for name in moved if ".blocks." in name
        } == blocks
        assert not [name for name in moved if name.startswith("task_embeddings")]
    assert {name for name in log_rows(run)[-1] if name.startswith("loss/")} == {"loss/lm"}


def test_a_new_projector_starts_from_the_pretrained_one(llava_folder: Path, tmp_path: Path) -> None:
    seen, _ = stages(tmp_path, llava_folder)
    method = eproj(llava_folder)
    method.prepare()
    assert method.projector_bank is not None
    for name, value in method.projector_bank.base.state_dict().items():
        assert torch.equal(seen.before[1][f"projector.copies.1.{name}"], value)


def test_samples_are_embedded_without_reading_more_than_prompt_and_image(llava_folder: Path) -> None:
    method = eproj(llava_folder, text_encoder="a/text", image_encoder="a/clip")
    assert method.access.words() == "encoder a/clip, encoder a/text"
    assert method.encoders_at_test == ("a/clip", "a/text")


def test_a_projector_that_cannot_be_copied_is_refused(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="model.projector must be full, got 'lora'"):
        eproj(llava_folder, projector="lora")
