"""Answers counted without their prompts have as many tokens as behind them, or prompts are tokenised too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from family_kit import CHATML_TURNS
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lit_cvit.backbones import Tiny
from lit_cvit.backbones.answer_context import answer_context
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.encode import SampleEncoder
from lit_cvit.data.tasks import Sample

GOLDEN = Path(__file__).parents[1] / "golden"
PIECES = [
    *(" ", "  ", "\n", "\n\n", "\t", "a", "the", "Red", "A", "5", "12", ".", ":", "-", ",", "'s", "'"),
    *("\u00e9", "e\u0301", "\u0301", "\u4e2d", "\U0001f600", "\u2581", "\u0120", "\u200b", "\xa0", "\u0958"),
    *("ASSISTANT:", " ASSISTANT:", " Assistant:", "USER: ", "assistant\n", "[/INST]", "0x0A", "<0x0A>"),
]
TOKENS = ["</s>", "<s>", "<image>", "<|im_start|>", "<|im_end|>"]


def joined(pieces: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), min_size=1, max_size=6).map("".join)


texts, replies = joined([*PIECES, *TOKENS]), joined(PIECES)
conversations = st.lists(st.tuples(texts, replies), min_size=1, max_size=3)


def parts_of(kind: str) -> dict[str, Any]:
    """A tokenizer as plain data: that of `tiny`, byte-level, or that of Llama, sentences as a whole."""
    if kind == "llama":
        parts: dict[str, Any] = json.loads((GOLDEN / "tiny_llama_tokenizer.json").read_text())
    else:
        parts = json.loads(Tiny().tokenizer.backend_tokenizer.to_str())
    known = {token["content"] for token in parts["added_tokens"]}
    new = [token for token in TOKENS if token not in known]
    size = 1 + max([*parts["model"]["vocab"].values(), *(token["id"] for token in parts["added_tokens"])])
    for number, content in enumerate(new, start=size):
        parts["added_tokens"].append({**parts["added_tokens"][-1], "id": number, "content": content})
    return parts


def wrapped(parts: dict[str, Any]) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)), pad_token="</s>", eos_token="</s>"
    )


def encoder_of(parts: dict[str, Any], chat: ChatFormat) -> SampleEncoder:
    return SampleEncoder(
        tokenizer=wrapped(parts),
        image_processor=SimpleNamespace(image_mean=(0.5, 0.5, 0.5)),
        chat=chat,
        num_image_tokens=3,
        image_aspect="crop",
        max_length=4096,
    )


def sample_of(turns: list[tuple[str, str]]) -> Sample:
    *history, (text, answer) = turns
    return Sample("s", "T", "", "", (answer,), history=tuple(history), text=text)


ENCODERS = {
    "tiny": (encoder_of(parts_of("tiny"), Tiny().chat_format), " Assistant:"),
    "llama": (encoder_of(parts_of("llama"), ChatFormat()), " ASSISTANT:"),
    "mistral": (encoder_of(parts_of("llama"), ChatFormat(user="[INST] ", assistant=" [/INST]")), " [/INST]"),
    "chatml": (encoder_of(parts_of("tiny"), CHATML_TURNS), "<|im_start|>assistant\n"),
    "chatml on llama": (encoder_of(parts_of("llama"), CHATML_TURNS), "<|im_start|>assistant\n"),
}


@pytest.mark.parametrize("name", ENCODERS)
@given(samples=st.lists(conversations.map(sample_of), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_answers_alone_have_as_many_tokens_as_behind_any_prompt(name: str, samples: list[Sample]) -> None:
    encoder, context = ENCODERS[name]
    assert answer_context(encoder.tokenizer, encoder.chat) == context
    assert not encoder.answers_vary
    whole = encoder.encode(samples, with_answers=True).answer_mask
    assert whole is not None
    assert encoder.answer_tokens(samples) == whole.sum(1).tolist()


def normalised_end(parts: dict[str, Any]) -> None:
    next(t for t in parts["added_tokens"] if t["content"] == "</s>")["normalized"] = True


def longer_end(parts: dict[str, Any]) -> None:
    parts["added_tokens"].append({**parts["added_tokens"][-1], "id": 9000, "content": "</s>\n"})


def token_over_the_gap(parts: dict[str, Any]) -> None:
    parts["model"]["vocab"]["T:\u0120"] = 9000


def word_before_the_gap(parts: dict[str, Any]) -> None:
    token = {**parts["added_tokens"][-1], "id": 9000, "content": "SISTANT:", "normalized": True}
    parts["added_tokens"].append(token)


def strips_spaces(parts: dict[str, Any]) -> None:
    parts["added_tokens"][-1]["rstrip"] = True


def unknown_pattern(parts: dict[str, Any]) -> None:
    parts["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": "[^a-z]+ [a-z]"}


def unknown_normaliser(parts: dict[str, Any]) -> None:
    parts["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}


def longer_replacement(parts: dict[str, Any]) -> None:
    parts["normalizer"] = {"type": "Replace", "pattern": {"String": ": "}, "content": ":"}


@pytest.mark.parametrize(
    "change",
    [
        normalised_end,
        longer_end,
        token_over_the_gap,
        word_before_the_gap,
        strips_spaces,
        unknown_pattern,
        unknown_normaliser,
        longer_replacement,
    ],
)
def test_a_tokenizer_that_might_look_across_the_gap_gets_whole_prompts(change: Any) -> None:
    parts = parts_of("tiny")
    plain = encoder_of(parts, ChatFormat())
    assert not plain.answers_vary
    change(parts)
    backend = SimpleNamespace(to_str=lambda: json.dumps(parts))
    tokenizer = SimpleNamespace(backend_tokenizer=backend, split_special_tokens=False)
    assert answer_context(tokenizer, ChatFormat()) is None


def test_other_tokens_of_the_prompt_can_change_those_of_an_answer_and_are_counted_then() -> None:
    """Without a split into words, bytes of prompt and answer are joined."""
    parts = parts_of("tiny")
    parts["pre_tokenizer"] = {**parts["pre_tokenizer"]["pretokenizers"][1], "use_regex": False}
    parts["model"]["vocab"]["x:"] = 9000
    parts["model"]["vocab"]["x:\u0120"] = 9001
    parts["model"]["merges"] = [["x", ":"], ["x:", "\u0120"], *parts["model"]["merges"]]
    chat = ChatFormat(user="", assistant=":")
    encoder = encoder_of(parts, chat)
    assert encoder.answers_vary
    samples = [sample_of([(text, "b.5")]) for text in ("a", "ax")]
    mask = encoder.encode(samples, with_answers=True).answer_mask
    assert mask is not None
    assert encoder.answer_tokens(samples) == mask.sum(1).tolist()


def test_equal_answers_are_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, context = ENCODERS["tiny"]
    asked: list[list[str]] = []
    real = encoder._counted_behind
    monkeypatch.setattr(
        encoder, "_counted_behind", lambda before, each: (asked.append(list(each)), real(before, each))[1]
    )
    samples = [sample_of([("a", "yes"), (str(number), "no")]) for number in range(5)]
    first, *others = encoder.answer_tokens(samples)
    assert others == [first] * 4
    assert asked == [["yes", "no"]]
    assert encoder.answer_tokens([]) == []


def test_the_digest_names_tokenizer_format_and_longest_length() -> None:
    def digest(chat: ChatFormat = ENCODERS["tiny"][0].chat, **changes: Any) -> str:
        encoder = encoder_of({**parts_of("tiny"), **changes}, chat)
        return encoder.digest()

    shorter = encoder_of(parts_of("tiny"), ENCODERS["tiny"][0].chat)
    shorter.max_length = 100
    others = [digest(ChatFormat()), digest(normalizer={"type": "NFC"}), shorter.digest()]
    assert digest() == digest()
    assert len({digest(), *others}) == 4
    assert re.fullmatch("[0-9a-f]{64}", digest())
