"""What the tests of ProgLoRA and its callbacks share: a free text encoder, and untrained stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from stream_kit import STREAM, small_data, small_method
from torch import Tensor

from lit_cvit.adapters import routing
from lit_cvit.data.sampling import mix
from lit_cvit.data.tasks import Batch, Sample
from lit_cvit.methods import ProgLoRADynamic, ProgLoRAStatic, task_embedding
from lit_cvit.methods.prog_lora.base import ProgLoRABase

Form = TypeVar("Form", bound=ProgLoRABase)


class HashedTexts:
    """Embeds a text by its hash; embeddings have a common part, as those of real encoders do."""

    dimension = 8

    def __init__(self, name: str = "hashed") -> None:
        self.name = name

    def encode(self, texts: Sequence[str]) -> Tensor:
        seeds = [torch.Generator().manual_seed(mix("text", text)) for text in texts]
        return torch.stack([torch.randn(self.dimension, generator=seed) + 0.5 for seed in seeds])


@pytest.fixture(autouse=True, scope="module")
def hashed_texts() -> Iterator[None]:
    """Import it into a test module to have tasks compared without a language model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_embedding, "text_encoder", HashedTexts)
        yield


def static(folder: Path, **settings: Any) -> ProgLoRAStatic:
    return prog_lora(folder, ProgLoRAStatic, **settings)


def dynamic(folder: Path, **settings: Any) -> ProgLoRADynamic:
    return prog_lora(folder, ProgLoRADynamic, **settings)


def prog_lora(folder: Path, form: type[Form], **settings: Any) -> Form:
    method = small_method(folder, form, **settings)
    assert isinstance(method, form)
    return method


def begun(method: Form, num_stages: int = 3) -> Form:
    """The method in a stage of the stream, untrained but with blocks that are not zero."""
    method.prepare()
    for stage in small_data(tasks=STREAM).stages(seed=0)[:num_stages]:
        method.begin_stage(stage)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in method.tensors().items():
        if name.endswith(".B"):
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
        if name == "key_gate.down.weight":
            # The random backbone's embeddings are tiny; without it all texts have about the same gate.
            tensor.data.mul_(200)
    return method


def samples(*places: tuple[str, int]) -> list[Sample]:
    tasks = {task.name: task.test for task in small_data().benchmark.stream}
    return [tasks[name].sample(index) for name, index in places]


LAYERS = ("decoder.1.mlp.up_proj", "decoder.2.mlp.down_proj")
# ScienceQA 4 is text alone; Flickr30k is never learned.
MIXED = (("ScienceQA", 0), ("VQAv2", 1), ("ScienceQA", 4), ("GQA", 2), ("Flickr30k", 0))


def mixed_batch(method: ProgLoRABase, *, with_answers: bool = False) -> Batch:
    return method.backbone.encode(samples(*MIXED), with_answers=with_answers)


def outputs(method: ProgLoRABase, batch: Batch, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of a layer in the model."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = method.banks[layer].register_forward_hook(
        lambda module, inputs, out: seen.append((inputs[0], out))
    )
    with torch.no_grad(), routing(method.context(batch)):
        method.backbone.forward_hidden(batch)
    handle.remove()
    return seen[0]


def require_fusion(method: ProgLoRABase, batch: Batch, layer: str, weights: list[list[float]]) -> None:
    bank = method.banks[layer]
    x, y = outputs(method, batch, layer)
    for row, own in enumerate(weights):
        added = torch.zeros_like(y[row])
        for weight, block in zip(own, bank.lora_blocks(), strict=True):
            added += weight * 2.0 * (x[row] @ block.A.T @ block.B.T)
        torch.testing.assert_close(y[row], bank.base(x[row]) + added, atol=2e-5, rtol=1e-4)
        assert float(added.detach().abs().max()) > 1e-3
