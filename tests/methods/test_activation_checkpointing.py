"""Activation checkpointing: the layers run twice, under the forward's own routing, and gradients stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import quick_data, small_method

from lit_cvit.adapters import routing
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod, SeqLoRA, SMoLoRA

METHODS: dict[str, tuple[type[ContinualMethod], dict[str, Any]]] = {
    "seq_lora": (SeqLoRA, {}),
    "smolora": (SMoLoRA, {"dropout": 0.2}),
    "smolora_top2": (SMoLoRA, {"top_k": 2}),
}


def begun(folder: Path, name: str, *, checkpointing: bool) -> ContinualMethod:
    """A method in its first stage with adapters that say something."""
    family, settings = METHODS[name]
    method = small_method(folder, family, **settings)
    method.backbone.activation_checkpointing = checkpointing
    method.prepare()
    (stage, *_) = quick_data().stages(seed=0)
    method.begin_stage(stage)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor_name, tensor in method.tensors().items():
            if tensor_name.endswith(".B"):
                tensor.add_(torch.empty(tensor.shape).normal_(std=0.1, generator=generator))
    return method


def batches(method: ContinualMethod) -> list[Batch]:
    tasks = {task.name: task for task in quick_data().benchmark.stream}
    return [
        method.backbone.encode([tasks[name].test.sample(i) for i in (0, 1, 4)], with_answers=True)
        for name in ("ScienceQA", "Flickr30k")
    ]


def gradients(method: ContinualMethod) -> tuple[dict[str, torch.Tensor], int]:
    """Of two forward passes under two contexts before one backward pass, and how often a layer began."""
    runs = []
    handle = method.backbone.decoder_layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    torch.manual_seed(0)
    total = torch.zeros(())
    for weight, batch in enumerate(batches(method), start=1):
        with routing(method.context(batch)):
            total = total + weight * method.backbone.loss(batch).loss_sum
    total.backward()  # type: ignore[no-untyped-call]
    handle.remove()
    named = ((name, p.grad) for name, p in method.named_parameters())
    return {name: grad for name, grad in named if grad is not None}, len(runs)


@pytest.mark.parametrize("name", list(METHODS))
def test_gradients_are_those_without_it_also_of_two_contexts_in_one_step(
    llava_folder: Path, name: str
) -> None:
    plain, once = gradients(begun(llava_folder, name, checkpointing=False))
    recomputed, twice = gradients(begun(llava_folder, name, checkpointing=True))
    assert (once, twice) == (2, 4)
    assert plain.keys() == recomputed.keys()
    assert [n for n in plain if not torch.equal(plain[n], recomputed[n])] == []
    assert any(bool(grad.any()) for grad in plain.values())


def test_it_is_off_while_answering(llava_folder: Path) -> None:
    method = begun(llava_folder, "smolora", checkpointing=True).eval()
    sample = quick_data().benchmark.stream[0].test.sample(0)
    batch = method.backbone.encode([sample], with_answers=False)
    runs = []
    handle = method.backbone.decoder_layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    answers = method.generate(batch, max_new_tokens=3)
    handle.remove()
    assert len(answers) == 1
    assert 1 <= len(runs) <= 3
