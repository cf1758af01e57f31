"""Pooled outputs of the decoder: a plain transcription, one sample at a time, and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stream_kit import small_data, small_method
from torch import Tensor, nn

from lit_cvit.adapters import routing
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod, SMoLoRA
from lit_cvit.probing.features import observed_modules, pooled_outputs, rows_of
from lit_cvit.stream.preflight import introduce

CPU = torch.device("cpu")
ROWS = [0, 2, 3, 4, 6]


class Careless(SMoLoRA):
    """Reads the task of a sample, which it does not declare to know."""

    def sample_facts(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.samples[0].task
        return super().sample_facts(batch)


def met(folder: Path, family: type[ContinualMethod] = SMoLoRA) -> tuple[ContinualMethod, ContinualDataModule]:
    """A method that routes by the prompt's mean, in its first stage, with blocks that do something."""
    data = small_data(settings={"num_test": 7}, eval_batch_size=2)
    method = small_method(folder, family, use_if=False)
    introduce(method, data)
    method.prepare()
    method.begin_stage(data.stages(seed=0)[0])
    generator = torch.Generator().manual_seed(0)
    for name, tensor in method.tensors().items():
        if name.endswith(".B"):
            tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
    return method, data


def transcribed(method: ContinualMethod, data: ContinualDataModule, row: int, at: str) -> Tensor:
    """Means over all positions of a single sample, which has no padding: (L, d)."""
    sample = data.stream[0].test.sample(row)
    batch = method.backbone.encode([sample], with_answers=False)
    model, caught = method.backbone.model, []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        caught.append(output)

    layers = method.backbone.decoder_layers
    handles = [layer.mlp.down_proj.register_forward_hook(keep) for layer in layers if at == "down_proj"]
    handles += [layers[-1].register_forward_hook(keep)] if at == "layer" else []
    method.eval()
    with torch.no_grad(), routing(method.context(batch)):
        states = model(**batch.inputs, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    # The last hidden state is after the final norm, so the top layer's output is caught.
    found = caught if at == "down_proj" else [*states[1:-1], caught[0]]
    return torch.stack([hidden[0].mean(0) for hidden in found])


@pytest.mark.parametrize("at", ["layer", "down_proj"])
def test_vectors_are_the_means_over_each_prompt_alone(llava_folder: Path, at: Any) -> None:
    method, data = met(llava_folder)
    task = data.stream[0]
    # Samples with and without an image, in batches of two lengths.
    assert {task.test.sample(row).image is None for row in ROWS} == {True, False}
    vectors = pooled_outputs(method, data, task, ROWS, at=at, device=CPU)
    assert vectors.shape == (3, len(ROWS), 64)
    assert vectors.dtype == torch.float32
    expected = torch.stack([transcribed(method, data, row, at) for row in ROWS], dim=1)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    # Not the vectors of the bare backbone.
    for bank in method.banks.values():
        for block in bank.lora_blocks():
            block.B.data.zero_()
    assert not torch.allclose(vectors, pooled_outputs(method, data, task, ROWS, at=at, device=CPU), atol=1e-3)


def test_the_method_comes_out_as_it_went_in(llava_folder: Path) -> None:
    method, data = met(llava_folder)
    method.train()
    modes = {name: module.training for name, module in method.named_modules()}
    before = torch.get_rng_state()
    pooled_outputs(method, data, data.stream[0], ROWS, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: module.training for name, module in method.named_modules()} == modes
    assert [len(layer._forward_hooks) for layer in observed_modules(method.backbone, "layer")] == [0, 0, 0]
    assert all(parameter.grad is None for parameter in method.parameters())


def test_hooks_go_away_also_when_a_sample_fails(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, data = met(llava_folder)

    def broken(batch: Batch) -> None:
        raise ValueError("a bad batch")

    monkeypatch.setattr(method.backbone, "forward_hidden", broken)
    with pytest.raises(ValueError, match="a bad batch"):
        pooled_outputs(method, data, data.stream[0], ROWS, device=CPU)
    assert [len(layer._forward_hooks) for layer in observed_modules(method.backbone, "layer")] == [0, 0, 0]


def test_what_a_method_does_not_declare_to_know_stays_hidden(llava_folder: Path) -> None:
    method, data = met(llava_folder, Careless)
    with pytest.raises(RuntimeError, match="reads `sample.task`"):
        pooled_outputs(method, data, data.stream[0], ROWS, device=CPU)


def test_a_decoder_without_the_module_is_refused(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = met(llava_folder)
    monkeypatch.setattr(method.backbone.decoder_layers[1].mlp, "_modules", {})
    with pytest.raises(ValueError, match="at 'down_proj': a decoder layer of Llava has no mlp.down_proj"):
        observed_modules(method.backbone, "down_proj")


def test_every_task_has_as_many_rows_evenly_spaced() -> None:
    stream = small_data(settings={"num_test": 10}).stream
    assert rows_of(stream, 4) == {"ScienceQA": [0, 2, 5, 7], "GQA": [0, 2, 5, 7]}
    assert rows_of(stream, 64) == {"ScienceQA": list(range(10)), "GQA": list(range(10))}
    shorter = small_data(settings={"num_test": 4}).stream[1]
    assert rows_of((stream[0], shorter), 64) == {"ScienceQA": [0, 2, 5, 7], "GQA": [0, 1, 2, 3]}
    message = r"at least 3 samples of every task, got 2 \(ScienceQA has 10 test samples, 2 were asked for\)"
    with pytest.raises(ValueError, match=message):
        rows_of(stream, 2)
