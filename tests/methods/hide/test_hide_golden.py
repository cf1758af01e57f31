"""HiDe's layers and anchors against outputs of the official code (tests/golden/hide_SOURCE.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lit_cvit.adapters import RoutingContext, load_adapter_state, routing
from lit_cvit.methods.hide.anchors import Anchors, anchor_weights
from lit_cvit.methods.hide.method import HiDeBank
from lit_cvit.methods.prompt_features import Features

GOLDEN = Path(__file__).parents[2] / "golden"
LAYERS = ["linear_a", "linear_b_bias"]
WEIGHTS = ["anchor_weights_a", "anchor_weights_b_768"]
VALUES = {"atol": 1e-5, "rtol": 1e-5}
GRADIENTS = {"atol": 2e-5, "rtol": 1e-4}
ANCHORS = {"atol": 1e-6, "rtol": 1e-5}


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"hide_{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(np.array(value)) for key, value in data.items()}


def bank_of(data: dict[str, torch.Tensor], num_blocks: int) -> HiDeBank:
    rank, width = data["A"].shape[1:]
    base = nn.Linear(width, data["B"].shape[1], bias="bias" in data).requires_grad_(False)
    base.weight.copy_(data["W0"])
    if "bias" in data:
        base.bias.copy_(data["bias"])
    bank = HiDeBank(base, "layer", scaling=float(data["scaling"]))
    state = {}
    for i in range(num_blocks):
        bank.add_block(rank, torch.Generator())
        state |= {f"layer.blocks.{i}.A": data["A"][i], f"layer.blocks.{i}.B": data["B"][i]}
    load_adapter_state({"layer": bank}, state)
    return bank


def run(bank: HiDeBank, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """The layer's output with one gate for all samples."""
    with routing(RoutingContext(num_samples=len(x), gate=gate.float().expand(len(x), -1))):
        return bank(x)


def one_hot(index: int, size: int) -> torch.Tensor:
    return torch.eye(size)[index]


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_newest_block_trains_alone(name: str, crossed: bool) -> None:
    data = golden(name)
    task = int(data["cur_task"])
    bank, x = bank_of(data, task + 1), data["x"].clone().requires_grad_()
    bank.crossed = crossed
    y = run(bank, x, one_hot(task, task + 1))
    torch.testing.assert_close(y, data["y_train"], **VALUES)
    (y * data["P"]).sum().backward()
    torch.testing.assert_close(x.grad, data["gx_train"], **GRADIENTS)
    for index, block in enumerate(bank.lora_blocks()):
        torch.testing.assert_close(block.A.grad, data["gA_train"][index], **GRADIENTS)
        torch.testing.assert_close(block.B.grad, data["gB_train"][index], **GRADIENTS)


@pytest.mark.parametrize(
    ("crossed", "key"), [(True, "y_lower_fused"), (False, "y_lower_sum_of_products_NOT_official")]
)
@pytest.mark.parametrize("name", LAYERS)
def test_both_fusions_give_the_recorded_outputs(name: str, crossed: bool, key: str) -> None:
    data = golden(name)
    num_blocks = int(data["cur_task"]) + 1
    bank = bank_of(data, num_blocks)
    bank.crossed = crossed
    torch.testing.assert_close(run(bank, data["x"], torch.ones(num_blocks)), data[key], **VALUES)
    assert (data["y_lower_fused"] - data["y_lower_sum_of_products_NOT_official"]).abs().max() > 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_the_top_layer_gives_the_recorded_weighted_outputs(name: str) -> None:
    data = golden(name)
    size, task = len(data["A"]), int(data["cur_task"])
    bank = bank_of(data, size)
    torch.testing.assert_close(run(bank, data["x"], data["expert_weight"]), data["y_top_weighted"], **VALUES)
    torch.testing.assert_close(run(bank, data["x"], one_hot(task, size)), data["y_top_onehot"], **VALUES)
    learned = data["expert_weight"][: task + 1]
    short = run(bank_of(data, task + 1), data["x"], learned)
    torch.testing.assert_close(short, data["y_top_short_weights"], **VALUES)


def anchors_of(means: torch.Tensor, counts: torch.Tensor) -> Anchors:
    anchors = Anchors(means.shape[1])
    for mean, count in zip(means, counts, strict=True):
        anchors.grow()
        anchors.sums[-1], anchors.counts[-1] = mean * count, count
    return anchors


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_batch_of_samples_gets_the_recorded_weights(name: str) -> None:
    data = golden(name)
    learned = int(data["expert_num"])
    counts = torch.arange(1.0, learned + 1)
    present = torch.ones(len(data["image_feature"]), dtype=torch.bool)
    weights = anchor_weights(
        [anchors_of(data[f"{part}_anchor"][:learned], counts) for part in ("image", "text")],
        [Features(data[f"{part}_feature"], present) for part in ("image", "text")],
        [0.5, 0.5],
        temperature=0.1,
    )
    torch.testing.assert_close(weights, data["weight"], **ANCHORS)


def test_sums_and_counts_are_the_recorded_anchors_but_for_the_random_start() -> None:
    data = golden("anchor_update_a")
    for part in ("image", "text"):
        anchors = Anchors(8)
        anchors.grow()
        batches = data[f"{part}_features"].split(data["batch_sizes"].tolist())
        for number, batch in enumerate(batches):
            anchors.add(batch, torch.ones(len(batch), dtype=torch.bool))
            count = anchors.counts[-1] + data["init_count"]
            assert count == data["count_after"][number]
            theirs = (anchors.sums[-1] + data[f"init_{part}_anchor"][0] * data["init_count"]) / count
            torch.testing.assert_close(theirs, data[f"{part}_anchor_after"][number], **ANCHORS)
        mean = data[f"{part}_features"].mean(0)
        torch.testing.assert_close(anchors.sums[-1] / anchors.counts[-1], mean, **ANCHORS)


def test_the_count_does_not_stop_where_the_official_one_does() -> None:
    data = golden("anchor_counter_saturation")
    anchors = Anchors(2)
    anchors.grow()
    for batch in data["image_features"]:
        anchors.add(batch, torch.ones(24, dtype=torch.bool))
    assert (int(anchors.counts[-1]), int(data["count_after"][-1])) == (14400, 8192)
    mean = data["image_features"].double().flatten(0, 1).mean(0)
    torch.testing.assert_close((anchors.sums[-1] / 14400).double(), mean, atol=1e-5, rtol=1e-4)


# -- what the official code cannot do ------------------------------------------------------------------------

TEXT = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
IMAGE = torch.tensor([[0.0, 1.0], [0.0, 1.0]])


def weights_of(
    has_image: list[bool], image_counts: list[float], text_counts: list[float]
) -> list[list[float]]:
    """Of samples with the text (1, 0) and the image (1, 0)."""
    probe = torch.tensor([[1.0, 0.0]]).expand(len(has_image), 2)
    features = [Features(probe, torch.tensor(has_image)), Features(probe, torch.ones(len(has_image)).bool())]
    anchors = [anchors_of(IMAGE, torch.tensor(image_counts)), anchors_of(TEXT, torch.tensor(text_counts))]
    return anchor_weights(anchors, features, [0.5, 0.5], temperature=0.1).tolist()


def softmax(*logits: float) -> list[float]:
    return torch.tensor(logits).softmax(0).tolist()


def test_a_sample_without_an_image_is_compared_by_text_at_the_full_weight() -> None:
    with_image, without = weights_of([True, False], [3, 3], [3, 3])
    assert with_image == pytest.approx(softmax(5.0, 3.0))
    assert without == pytest.approx(softmax(10.0, 6.0))


def test_a_task_without_images_is_compared_by_text_at_the_full_weight() -> None:
    assert weights_of([True], [0, 3], [3, 3])[0] == pytest.approx(softmax(10.0, 3.0))


def test_a_task_of_which_nothing_was_seen_gets_nothing() -> None:
    assert weights_of([True, False], [3, 0], [3, 0]) == [[1.0, 0.0], [1.0, 0.0]]


def test_before_any_sample_all_tasks_share_alike() -> None:
    assert weights_of([True], [0, 0], [0, 0]) == [[0.5, 0.5]]


def test_samples_that_do_not_count_are_left_out_whatever_they_hold() -> None:
    anchors = Anchors(2)
    anchors.grow()
    anchors.add(torch.tensor([[1.0, 2.0], [float("nan"), 9.0]]), torch.tensor([True, False]))
    anchors.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool))
    assert (anchors.sums.tolist(), anchors.counts.tolist()) == ([[1.0, 2.0]], [1.0])
    anchors.grow()
    anchors.add(torch.tensor([[5.0, 5.0]], dtype=torch.bfloat16), torch.tensor([True]))
    assert (anchors.sums.tolist(), anchors.counts.tolist()) == ([[1.0, 2.0], [5.0, 5.0]], [1.0, 1.0])
    assert (anchors.sums.dtype, anchors.counts.dtype) == (torch.float32, torch.float32)
