"""Greedy search: what transformers' own loop answers, with fewer rows and no copies of the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from answering_kit import Observed, ending_token
from family_kit import FAMILIES, Noise
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer

from lit_cvit.backbones import Backbone, Llava, base, greedy
from lit_cvit.data.tasks import Batch, Sample

TEXTS = ("What colour is it?", "Where is the large square? " * 3, "Read.", "Count all of them.", "Why?")
SAMPLES = [
    Sample(f"{number}", "VQA", text, "", ("red",), Noise(number, 20 + 9 * number, 30) if number % 3 else None)
    for number, text in enumerate(TEXTS * 2)
]
NUM_TOKENS = 10


def theirs(model: Any, input_ids: Tensor, on_drop: Any = None, **inputs: Any) -> Tensor:
    """The loop of transformers."""
    found: Tensor = model._sample(input_ids, **inputs)
    return found


def answers_of_transformers(backbone: Backbone, batch: Batch) -> list[str]:
    with mock.patch.object(base, "greedy_search", theirs):
        return backbone.generate(batch, max_new_tokens=NUM_TOKENS)


def ended_by(backbone: Backbone, batch: Batch) -> Backbone:
    """The backbone with another end token, at which rows end one after the other."""
    backbone.encoder.end_id = ending_token(Observed(backbone, batch, NUM_TOKENS).tokens)
    return backbone


@pytest.mark.compat
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_answers_as_with_transformers_own_loop(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    family.build(tmp_path)
    backbone = family.backbone(str(tmp_path), **family.settings).load()
    batch = backbone.encode(SAMPLES, with_answers=False)
    found = Observed(ended_by(backbone, batch), batch, NUM_TOKENS)
    assert len(found.left) >= 2
    assert found.texts == answers_of_transformers(backbone, batch)
    assert len(set(found.texts)) > 2


@pytest.fixture
def llava(llava_folder: Path) -> Backbone:
    return Llava(str(llava_folder)).load()


def test_rows_leave_once_an_eighth_of_them_has_ended() -> None:
    assert [greedy._pays([True] * ended + [False] * (16 - ended)) for ended in (0, 1, 2, 3)] == [
        False,
        False,
        True,
        True,
    ]
    assert greedy._pays([True, False])


def test_a_row_has_its_end_token_and_then_padding(llava: Backbone) -> None:
    batch = llava.encode(SAMPLES, with_answers=False)
    found = Observed(ended_by(llava, batch), batch, NUM_TOKENS)
    end, pad = llava.encoder.end_id, llava.encoder.pad_id
    lengths = [row.index(end) + 1 if end in row else NUM_TOKENS for row in found.tokens.tolist()]
    assert len(set(lengths)) > 2
    for row, length in zip(found.tokens.tolist(), lengths, strict=True):
        assert row[length:] == [pad] * (len(row) - length)
        assert pad not in row[:length]


def test_the_search_ends_with_the_last_answer(llava: Backbone) -> None:
    batch = llava.encode(SAMPLES[:1], with_answers=False)
    endless = Observed(llava, batch, NUM_TOKENS)
    llava.encoder.end_id = endless.tokens[0, 3].item()
    steps = endless.tokens[0].tolist().index(llava.encoder.end_id) + 1
    assert Observed(llava, batch, NUM_TOKENS).tokens.tolist() == [endless.tokens[0, :steps].tolist()]


def test_a_step_moves_none_of_the_keys_of_the_last_one(llava: Backbone) -> None:
    batch = llava.encode(SAMPLES[:2], with_answers=False)
    places: list[set[int]] = []
    update = greedy._RoomyLayer.update

    def watched(layer: Any, *states: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
        found = update(layer, *states, **more)
        places.append({tensor.data_ptr() for tensor in found})
        return found

    with mock.patch.object(greedy._RoomyLayer, "update", watched):
        llava.generate(batch, max_new_tokens=5)
    layers = len(llava.decoder_layers)
    assert len(places) == 4 * layers
    assert all(places[number] == places[number % layers] for number in range(len(places)))


def test_a_layer_with_a_window_keeps_its_own_cache() -> None:
    layer = DynamicSlidingWindowLayer(sliding_window=4)
    layer.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    cache = mock.Mock(layers=[layer])
    greedy._make_room(cache, 5)
    assert cache.layers == [layer]


def test_a_configuration_that_processes_logits_is_refused(llava: Backbone) -> None:
    batch = llava.encode(SAMPLES[:1], with_answers=False)
    with pytest.raises(ValueError, match="greedy search processes no logits; the generation settings ask"):
        llava.model.generate(
            **llava._model_inputs(batch),
            custom_generate=greedy.greedy_search,
            repetition_penalty=1.5,
            max_new_tokens=2,
        )
