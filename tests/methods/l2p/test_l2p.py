"""L2P: the prompts of every family's decoder, their choice, and the pull on keys against the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_kit import FAMILIES, Noise
from stream_kit import STREAM, Snapshots, fit, log_rows, quick_data, small_method
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.backbones import Backbone, Llava
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.methods import L2P
from lit_cvit.methods.l2p.pool import majority, nearest

# The fits of the tests set them for every method.
pytestmark = pytest.mark.filterwarnings("ignore:model.rank, model.alpha have no effect")

SAMPLES = [
    Sample("wide", "VQA", "What colour is the square?", "Answer briefly.", ("red",), Noise(0)),
    Sample("text", "QA", "Which of these is a planet? " * 3, "", ("Mars is one.",)),
    Sample("tall", "Caption", "", "Describe the image.", ("a caf\u00e9\nand a sign",), Noise(1, 20, 60)),
]
PLAN = {"new_blocks": [], "new_projector": False, "seed": 3}


def begun(backbone: Backbone, **settings: Any) -> L2P:
    """An L2P in its first stage, whose prompts are as large as they must be to change an answer."""
    method = L2P(backbone, **{"prompt_length": 2, "top_k": 3, "pool_size": 5, **settings})
    method.prepare()
    method.follow_plan(dict(PLAN))
    assert method.pool is not None
    method.pool.prompts.data.mul_(20)
    return method.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def method(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> L2P:
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    family.build(folder)
    return begun(family.backbone(str(folder), **family.settings))


def hidden_of(method: L2P, batch: Batch) -> Tensor:
    with torch.no_grad(), routing(method.context(batch)):
        return method.backbone.forward_hidden(batch)


def prompts_of(method: L2P, batch: Batch) -> Tensor:
    return method.context(batch).fact("prompts").detach()


# -- prompts in the decoder ----------------------------------------------------------------------------------


def test_a_text_follows_its_prompts_as_if_they_were_its_first_tokens(method: L2P) -> None:
    model = method.backbone.model
    reserved = method.backbone.encode(SAMPLES[1:2], with_answers=True)
    ids = reserved.inputs["input_ids"][:, 6:]
    assert ids.shape[1] == method.backbone.encoder.num_answer_tokens(SAMPLES[1]) + int(
        reserved.prompt_mask.sum()
    )
    joined = torch.cat([prompts_of(method, reserved), model.get_input_embeddings().weight[ids]], dim=1)
    with torch.no_grad():
        expected = method.backbone.language_model(inputs_embeds=joined, use_cache=False).last_hidden_state
    torch.testing.assert_close(hidden_of(method, reserved), expected, rtol=1e-4, atol=1e-5)


def test_padding_on_either_side_and_other_samples_change_no_hidden_state(method: L2P) -> None:
    together = method.backbone.encode(SAMPLES, with_answers=False)
    assert len({tuple(row.flatten()[:4].tolist()) for row in prompts_of(method, together)}) > 1
    hidden = hidden_of(method, together)
    for number, sample in enumerate(SAMPLES):
        alone = method.backbone.encode([sample], with_answers=False)
        length = int(alone.inputs["attention_mask"].sum())
        torch.testing.assert_close(
            hidden[number, -length:], hidden_of(method, alone)[0], rtol=1e-3, atol=1e-4, msg=sample.id
        )


def test_batched_answers_are_those_one_by_one_and_depend_on_the_prompts(method: L2P) -> None:
    encode = method.backbone.encode

    def answers() -> list[str]:
        return method.generate(encode(SAMPLES, with_answers=False), max_new_tokens=8)

    together = answers()
    alone = [method.generate(encode([each], with_answers=False), max_new_tokens=8)[0] for each in SAMPLES]
    assert together == alone
    assert method.pool is not None
    method.pool.prompts.data.neg_()
    other = answers()
    method.pool.prompts.data.neg_()
    assert other != together


def test_what_is_reserved_is_attended_counted_and_no_part_of_a_prompt(method: L2P) -> None:
    batch = method.backbone.encode(SAMPLES, with_answers=False)
    start = batch.inputs["attention_mask"].argmax(1)
    for number, sample in enumerate(SAMPLES):
        own = slice(int(start[number]), int(start[number]) + 6)
        assert batch.inputs["attention_mask"][number, own].all()
        assert not batch.prompt_mask[number, own].any()
        assert method.backbone.prompt_length(sample) == int(batch.inputs["attention_mask"][number].sum())
        assert int(batch.prompt_mask[number].sum()) == method.backbone.prompt_length(sample) - 6


# -- the choice ----------------------------------------------------------------------------------------------


def test_the_nearest_keys_by_cosine_choose_the_prompts_in_order(llava_folder: Path) -> None:
    method = begun(Llava(str(llava_folder)))
    assert method.pool is not None
    batch = method.backbone.encode(SAMPLES, with_answers=True)
    features = np.zeros((3, method.features.image_width))
    features[[0, 2]] = method.backbone.image_features(batch).double().numpy()
    keys = method.pool.keys.detach().double().numpy()
    lengths = np.maximum(np.linalg.norm(features, axis=1), 1e-12)[:, None]
    cosines = features / lengths @ (keys / np.linalg.norm(keys, axis=1)[:, None]).T
    chosen = np.argsort(-cosines, axis=1, kind="stable")[:, :3]
    context = method.context(batch)
    expected = method.pool.prompts.detach().numpy()[chosen].reshape(3, 6, -1)
    assert np.array_equal(context.fact("prompts").detach().numpy(), expected)
    assert chosen[1].tolist() == [0, 1, 2]
    distances = (1 - np.take_along_axis(cosines, chosen, axis=1)).sum(1) * [1, 0, 1]
    assert context.fact("key_distance").detach().numpy() == pytest.approx(distances, abs=1e-5)


def test_the_majority_of_a_batch_counts_votes_and_breaks_ties_by_number() -> None:
    similarities = torch.tensor([[0.9, 0.1, 0.5, 0.0], [0.0, 0.8, 0.7, 0.1], [0.2, 0.9, 0.1, 0.3]])
    chosen = nearest(similarities, 2)
    assert chosen.tolist() == [[0, 2], [1, 2], [1, 3]]
    assert majority(chosen, 4).tolist() == [[1, 2]] * 3


def test_a_batch_chooses_together_in_training_alone(llava_folder: Path) -> None:
    method = begun(Llava(str(llava_folder)), choice="batch")
    batch = method.backbone.encode([*SAMPLES, SAMPLES[1]], with_answers=True)
    assert not torch.equal(prompts_of(method, batch)[0], prompts_of(method, batch)[1])
    prompts = prompts_of(method.train(), batch)
    assert all(torch.equal(prompts[0], other) for other in prompts)


def test_more_prompts_than_the_pool_has_are_refused(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.top_k must be at most model\.pool_size 4, got 5"):
        L2P(Llava(str(llava_folder)), pool_size=4)


# -- the pull on keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, {"batch_size": 2, "global_batch_size": 4}], ids=["whole", "halves"])
def test_the_pull_is_the_mean_over_the_samples_of_a_step(
    llava_folder: Path, tmp_path: Path, sizes: dict[str, int]
) -> None:
    method = small_method(llava_folder, L2P, pull=0.25)
    steps: dict[int, list[float]] = {}
    real = method.loss_terms

    def watched(batch: Batch, outputs: Any) -> dict[str, Tensor]:
        distances = method.context(batch).fact("key_distance").tolist()
        steps.setdefault(batch.place.step, []).extend(distances)  # type: ignore[union-attr]
        return real(batch, outputs)

    method.loss_terms = watched  # type: ignore[method-assign]
    run = fit(tmp_path, method, quick_data(tasks=STREAM[:1], **sizes), callbacks=[]).run
    logged = [row["loss/pull"] for row in log_rows(run)]
    expected = [0.25 * float(np.mean(steps[number])) for number in sorted(steps)]
    assert [len(found) for found in steps.values()] == [4, 4]
    assert logged == pytest.approx(expected, rel=1e-5)
    assert min(logged) > 0


@pytest.mark.parametrize(("pull", "moves"), [(0.0, False), (0.5, True)])
def test_keys_train_by_the_pull_alone(llava_folder: Path, tmp_path: Path, pull: float, moves: bool) -> None:
    states = Snapshots()
    method = small_method(llava_folder, L2P, pull=pull)
    fit(tmp_path, method, quick_data(tasks=STREAM[:1]), callbacks=[states])
    before, after = states.before[0], states.after[0]
    assert set(after) == {"pool.prompts", "pool.keys"}
    assert torch.equal(before["pool.keys"], after["pool.keys"]) != moves
    assert not torch.equal(before["pool.prompts"], after["pool.prompts"])
