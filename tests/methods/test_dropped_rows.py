"""Samples leave the batch when their answers end; what methods keep of the others goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from answering_kit import Observed, ending_token, never, trained
from prog_kit import hashed_texts as hashed_texts
from stream_kit import quick_data

from lit_cvit.adapters import RoutingContext
from lit_cvit.backbones import greedy
from lit_cvit.data.tasks import Batch
from lit_cvit.methods import ContinualMethod

NUM_TOKENS = 12
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "one gate for all samples": ("SeqLoRA", {}),
    "a gate and a projector for each sample": ("DirLoRA", {"projector": "full"}),
    "gates by bank": ("HiDe", {}),
    "groups": ("LCIA", {}),
    "weights of tasks": ("ProgLoRAStatic", {"recall": "none"}),
    "weights of keys": ("ProgLoRADynamic", {"recall": "none"}),
    "gates held from the prompt": ("SMoLoRA", {}),
    "gates of every step": ("SMoLoRA", {"preset": "official"}),
    "the first token's gate": ("MoELoRA", {"router": "first_token"}),
    "every token's gate": ("MoELoRA", {}),
    "prompts": ("L2P", {"targets": ["ffn"]}),
    "patches": ("ModelTailor", {"calibration_samples": 4}),
}


def asked(method: ContinualMethod) -> Batch:
    stream = quick_data().benchmark.stream
    samples = [task.test.sample(index) for index in range(4) for task in stream]
    return method.backbone.encode(samples, with_answers=False)


@pytest.mark.parametrize("case", METHODS)
def test_answers_are_the_same_when_the_ended_ones_leave(
    case: str, llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = trained(llava_folder, tmp_path, *METHODS[case])
    batch = asked(method)
    endless = Observed(method, batch, NUM_TOKENS)
    monkeypatch.setattr(method.backbone.encoder, "end_id", ending_token(endless.tokens))
    found = {}
    # Every row that ends leaves at once, also where it would not pay.
    for name, pays in (("dropping", any), ("whole", never)):
        monkeypatch.setattr(greedy, "_pays", pays)
        found[name] = Observed(method, batch, NUM_TOKENS)
    dropping, whole = found["dropping"], found["whole"]
    assert whole.left == []
    assert len(dropping.left) >= 2
    assert torch.equal(dropping.tokens, whole.tokens)
    assert dropping.texts == whole.texts
    assert len(set(whole.texts)) > 2


def test_a_context_is_narrowed_in_all_that_it_has_for_each_sample() -> None:
    context = RoutingContext(
        3,
        facts={"instruction": torch.arange(6.0).reshape(3, 2)},
        gate=torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]),
        gates={"all": torch.ones(2), "own": torch.arange(3.0).reshape(3, 1)},
        prompt_mask=torch.tensor([[True, True], [False, True], [True, False]]),
        row_to_sample={"projector": torch.tensor([0, 0, 2])},
        memo={"held": torch.arange(3.0).reshape(3, 1)},
    )
    context.select_samples(torch.tensor([0, 2]))
    assert context.num_samples == 2
    assert context.fact("instruction").tolist() == [[0, 1], [4, 5]]
    assert context.gate is not None
    assert context.gate.tolist() == [[1, 0], [0, 1]]
    assert {name: gate.tolist() for name, gate in context.gates.items()} == {"all": [1, 1], "own": [[0], [2]]}
    assert context.decoder_prompt_mask().tolist() == [[True, True], [True, False]]
    assert context.memo["held"].tolist() == [[0], [2]]
    # The projector ran at the prefill; to run it again would take another map.
    with pytest.raises(ValueError, match="no row_to_sample map for kind 'projector'"):
        context.rows("projector", 2)


def test_a_context_of_beams_is_not_narrowed() -> None:
    context = RoutingContext(2, row_to_sample={"decoder": torch.arange(2).repeat_interleave(3)})
    with pytest.raises(ValueError, match="whose decoder has a row map"):
        context.select_samples(torch.tensor([0]))
