"""ProgLoRADynamic: gates by keys of the users' pooled texts, what trains, how many parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from prog_kit import (
    LAYERS,
    MIXED,
    begun,
    dynamic,
    hashed_texts,  # noqa: F401
    mixed_batch,
    require_fusion,
    samples,
)

from lit_cvit.adapters import routing
from lit_cvit.data.restricted import restrict_batch


@pytest.mark.parametrize("pool_norm", ["none", "layer"])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_a_gate_is_the_softmax_over_keys_of_the_users_pooled_tokens(
    llava_folder: Path, pool: Any, pool_norm: Any
) -> None:
    settings = {"temperature": 0.7, "key_std": 0.3, "pool": pool, "pool_norm": pool_norm}
    method = begun(dynamic(llava_folder, **settings)).eval()
    table = method.backbone.model.get_input_embeddings().weight
    state = {
        name.removeprefix("key_gate."): value
        for name, value in method.tensors().items()
        if "key_gate" in name
    }
    gates = method.sample_facts(mixed_batch(method))["gate"]
    for row, sample in enumerate(samples(*MIXED)):
        tokens = table[method.backbone.tokenizer(sample.user_text, add_special_tokens=False)["input_ids"]]
        x = tokens.amax(0) if pool == "max" else tokens.mean(0)
        if pool_norm == "layer":
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        inner = torch.nn.functional.silu(state["down.weight"] @ x + state["down.bias"])
        outer = state["up.weight"] @ inner + state["up.bias"]
        h = torch.nn.functional.layer_norm(outer, outer.shape) * state["norm.weight"] + state["norm.bias"]
        expected = torch.stack([h @ state[f"keys.{n}"] / 0.7 for n in range(3)]).softmax(0)
        torch.testing.assert_close(gates[row], expected, atol=1e-5, rtol=1e-4)
    assert float(gates.std(0).max()) > 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_all_layers_have_the_one_gate_of_a_sample(llava_folder: Path, layer: str) -> None:
    method = begun(dynamic(llava_folder, key_std=0.3)).eval()
    gate = method.sample_facts(mixed_batch(method))["gate"].tolist()
    require_fusion(method, mixed_batch(method), layer, gate)


def test_a_gate_sees_the_users_text_alone(llava_folder: Path) -> None:
    """Neither image, task, answer, padding, other samples nor whether it is training."""
    method = begun(dynamic(llava_folder, key_std=0.3))
    expected = method.sample_facts(mixed_batch(method, with_answers=True))["gate"]
    method.eval()
    changed = [
        dataclasses.replace(each, image=None, task="x", id="x", answers=("other",))
        for each in samples(*MIXED)
    ]
    alone = [method.backbone.encode([each], with_answers=False) for each in changed]
    hidden = method.access.hidden(test=True)
    assert hidden == {"task", "id", "answers", "question", "instruction"}
    got = torch.cat([method.sample_facts(restrict_batch(each, hidden))["gate"] for each in alone])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_an_image_token_in_a_text_and_a_text_without_tokens_are_no_problem(llava_folder: Path) -> None:
    method = begun(dynamic(llava_folder))
    plain = samples(MIXED[0])[0]
    token = method.backbone.chat_format.image_token
    marked = dataclasses.replace(plain, text=f"{token}{plain.user_text}")
    features = method.gate_features([plain, marked, dataclasses.replace(plain, text=token)])
    assert torch.equal(features[0], features[1])
    assert not features[2].any()


def test_the_first_stage_has_weight_one_and_trains_no_key(llava_folder: Path) -> None:
    method = begun(dynamic(llava_folder), 1)
    assert method.sample_facts(mixed_batch(method))["gate"].tolist() == [[1.0]] * 5
    assert [name for name, p in method.named_parameters() if p.requires_grad and "key_gate" in name] == []


@pytest.mark.parametrize(("train_old_keys", "keys"), [(False, [2]), (True, [0, 1, 2])])
def test_later_stages_train_block_key_and_projectors(
    llava_folder: Path, train_old_keys: bool, keys: list[int]
) -> None:
    method = begun(dynamic(llava_folder, train_old_keys=train_old_keys))
    names = [name for name, p in method.named_parameters() if p.requires_grad]
    assert [name for name in names if ".keys." in name] == [f"key_gate.keys.{n}" for n in keys]
    assert sum("key_gate." in name and ".keys." not in name for name in names) == 6
    assert {name.split(".blocks.")[1][0] for name in names if ".blocks." in name} == {"2"}
    assert sum(".copies.0." in name for name in names) == 4


def test_the_gate_has_the_parameters_of_table_13(llava_folder: Path) -> None:
    """One projector and a key per block, of the decoder's width."""
    width, hidden = 64, 24
    method = begun(dynamic(llava_folder, proj_dim=hidden))
    sizes = [tensor.numel() for name, tensor in method.tensors().items() if "key_gate" in name]
    assert sum(sizes) == (width * hidden + hidden) + (hidden * width + width) + 2 * width + 3 * width
    assert 4096 * 256 + 256 + 256 * 4096 + 4096 + 2 * 4096 + 4096 == 2_113_792


def test_both_projectors_and_the_new_key_get_gradients(llava_folder: Path) -> None:
    method = begun(dynamic(llava_folder))
    batch = mixed_batch(method, with_answers=True)
    with routing(method.context(batch)):
        method.backbone.loss(batch).loss_sum.backward()
    moved = {name: bool(p.grad.any()) for name, p in method.named_parameters() if p.grad is not None}
    assert {name for name, moves in moved.items() if not moves} == set()
    assert {"key_gate.keys.2", "key_gate.down.weight"} <= moved.keys()
    assert "key_gate.keys.1" not in moved


def test_pool_norm_sets_alike_pooled_texts_apart(llava_folder: Path) -> None:
    """Maxima over tokens share an offset, which alone makes pooled texts of different tasks alike."""
    found = {}
    for pool_norm in ("none", "layer"):
        method = begun(dynamic(llava_folder, pool_norm=pool_norm))
        features = method.gate_features(samples(*MIXED))
        unit = torch.nn.functional.normalize(features, dim=1)
        found[pool_norm] = float((unit[0] @ unit[1]).detach())
        if pool_norm == "layer":
            torch.testing.assert_close(features.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    assert found["layer"] < found["none"] - 0.1
