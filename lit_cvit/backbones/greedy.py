"""Greedy search that drops the rows whose answers have ended.

`generate` of transformers prepares inputs, image features and cache, and calls this in place of its own loop.
What a model passes on from step to step is transformers' as well; what differs is that

* a row leaves the batch, its cache included, some steps after its end token (see `_pays`);
* the cache has room for the whole answer, where a `DynamicCache` copies itself at every step;
* a step waits for the device once, to learn which rows have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

RowsKept = Callable[[Tensor], None]
"""Called with the (rows,) numbers of the rows that stay, of those there were, before the next step."""

# What grows by a position at every step, with a row for each row of the batch.
_BY_ROW = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")


def greedy_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    on_drop: RowsKept | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """Answer prompts greedily; for `model.generate(custom_generate=greedy_search, on_drop=...)`.

    Args:
        model: The transformers model.
        input_ids: (S, L) the prompts, padded on the left.
        logits_processor: Must be empty.
        stopping_criteria: Not read: length and end token, the only ones, are the configuration's.
        generation_config: Has `max_length`, the end token and the padding.
        on_drop: Called when rows leave the batch.
        model_kwargs: The further inputs of the model.

    Returns:
        (S, L + T): the prompts and T new tokens; behind a row's end token there is padding.

    Raises:
        ValueError: the configuration asks for logits to be processed.
    """
    if logits_processor:
        names = ", ".join(type(each).__name__ for each in logits_processor)
        raise ValueError(f"greedy search processes no logits; the generation settings ask for {names}")
    answers = _Answers(len(input_ids), generation_config.eos_token_id)
    room = generation_config.max_length - input_ids.shape[1]
    outputs = model._prefill(input_ids, generation_config, model_kwargs)
    for step in range(room):
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        ids = outputs.logits[:, -1].float().argmax(-1, keepdim=True)
        answers.add(ids.flatten().tolist())
        if all(answers.ended) or step == room - 1:
            break
        if _pays(answers.ended):
            kept = torch.tensor(answers.drop(), device=ids.device)
            ids, model_kwargs = ids.index_select(0, kept), _of_rows(model_kwargs, kept)
            if on_drop is not None:
                on_drop(kept)
        if step == 0:
            _make_room(model_kwargs["past_key_values"], room)
        # It would live through the next pass, the prefill's with its image features.
        outputs = None
        inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **model_kwargs)
        outputs = model(**inputs, return_dict=True)
    return torch.cat([input_ids, answers.padded(generation_config.pad_token_id).to(input_ids)], dim=1)


class _Answers:
    """The new tokens of all rows, and which rows are still computed.

    Attributes:
        ended: Whether the answer of each row that is computed has ended.
    """

    def __init__(self, num_rows: int, end_id: int) -> None:
        self._end_id = end_id
        self._tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self._rows = list(range(num_rows))
        self.ended = [False] * num_rows

    def add(self, ids: list[int]) -> None:
        """Take the next token of every row that is computed."""
        for place, token in enumerate(ids):
            if not self.ended[place]:
                self._tokens[self._rows[place]].append(token)
                self.ended[place] = token == self._end_id

    def drop(self) -> list[int]:
        """Compute the rows that have ended no more; returns the places of the others."""
        stay = [place for place, ended in enumerate(self.ended) if not ended]
        self._rows, self.ended = [self._rows[place] for place in stay], [False] * len(stay)
        return stay

    def padded(self, pad_id: int) -> Tensor:
        """(S, T) the tokens of every row, its end token included."""
        longest = max(map(len, self._tokens))
        return torch.tensor([row + [pad_id] * (longest - len(row)) for row in self._tokens])


def _of_rows(model_kwargs: dict[str, Any], kept: Tensor) -> dict[str, Any]:
    """What a model passes on to its next step, of some rows."""
    model_kwargs["past_key_values"].batch_select_indices(kept)
    # Rows are the second dimension from the end: Qwen-VL has (4, S, L) positions.
    by_row = {
        name: value.index_select(-2, kept)
        for name, value in model_kwargs.items()
        if name in _BY_ROW and value is not None
    }
    return model_kwargs | by_row


def _pays(ended: list[bool]) -> bool:
    """Whether to drop the rows that have ended: an eighth of those that are still computed, or more.

    To drop rows copies the cache of the others, about what one step's attention reads. With an eighth the
    rows shrink geometrically, so all drops together copy less than eight times the whole cache, and a step
    computes less than an eighth too much.
    """
    return 8 * sum(ended) >= len(ended)


class _RoomyLayer(DynamicLayer):
    """A layer's keys and values at the front of tensors with room for the positions to come."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.is_initialized, self.dtype, self.device = True, layer.dtype, layer.device
        self._stored = _with_room(layer.keys, room), _with_room(layer.values, room)
        self._show(layer.keys.shape[-2])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new positions (rows, heads, positions, d) behind the others; returns all of them."""
        length = self.get_seq_length()
        added = key_states.shape[-2]
        for stored, new in zip(self._stored, (key_states, value_states), strict=True):
            stored.narrow(-2, length, added).copy_(new)
        return self._show(length + added)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        keys, values = self._stored
        length = self.get_seq_length()
        self._stored = keys.index_select(0, indices), values.index_select(0, indices)
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (stored.narrow(-2, 0, length) for stored in self._stored)
        self.keys, self.values = keys, values
        return keys, values


def _with_room(stored: Tensor, room: int) -> Tensor:
    *front, length, width = stored.shape
    found = stored.new_empty(*front, length + room, width)
    found.narrow(-2, 0, length).copy_(stored)
    return found


def _make_room(cache: DynamicCache, room: int) -> None:
    """Give a cache's layers room for so many more positions; those of a sliding window stay as they are."""
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            # One after the other, so that no more than one layer is there twice.
            cache.layers[number] = _RoomyLayer(layer, room)
