"""DoRA as a method: what it trains and saves, and that its layers in the model are the decomposed ones."""

from __future__ import annotations

from pathlib import Path

import torch
from prog_kit import mixed_batch
from stream_kit import fit, quick_data, small_method, snapshot

from lit_cvit.adapters import DoRABank, routing
from lit_cvit.methods import DoRA

LAYER = "decoder.1.mlp.down_proj"


def test_magnitude_and_directions_train_on_in_every_stage(llava_folder: Path, tmp_path: Path) -> None:
    after: list[dict[str, torch.Tensor]] = []

    class Recording(DoRA):
        def end_stage(self, stage: object) -> None:
            after.append(snapshot(self))

    method = small_method(llava_folder, Recording)
    fit(tmp_path, method, quick_data(), callbacks=[])
    assert after[0].keys() == after[1].keys()
    for bank in method.banks.values():
        for part, shape in (("A", (32, bank.in_features)), ("m", (bank.out_features,))):
            name = f"{bank.name}.blocks.0.{part}"
            assert after[0][name].shape == shape
            assert not torch.equal(after[0][name], after[1][name])
    # It starts at the norms of the pre-trained rows.
    fresh = small_method(llava_folder, DoRA)
    fresh.prepare()
    fresh.begin_stage(quick_data().stages(seed=0)[0])
    expected = fresh.banks[LAYER].weight.norm(dim=1)
    torch.testing.assert_close(fresh.tensors()[f"{LAYER}.blocks.0.m"], expected)
    assert not torch.equal(after[0][f"{LAYER}.blocks.0.m"], expected)


def test_a_layer_in_the_model_multiplies_by_the_decomposed_weight(llava_folder: Path) -> None:
    method = small_method(llava_folder, DoRA)
    method.prepare()
    method.begin_stage(quick_data().stages(seed=0)[0])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in method.tensors().items():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * (0 if name.endswith("A") else 0.1))
    bank, seen = method.banks[LAYER], []
    assert isinstance(bank, DoRABank)
    handle = bank.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    batch = mixed_batch(method, with_answers=True)
    with torch.no_grad(), routing(method.context(batch)):
        method.backbone.forward_hidden(batch)
    handle.remove()
    x, output = seen[0]
    A, B, m = (part.detach() for part in bank.block(0).parameters())
    weight = bank.weight + 2.0 * B @ A
    expected = x @ (m.unsqueeze(1) * weight / weight.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
