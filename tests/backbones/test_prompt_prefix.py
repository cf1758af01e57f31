"""A training row begins with the tokens that generation begins with, whatever is answered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from family_kit import CHATML_TURNS, FAMILIES
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from lit_cvit.backbones import Backbone
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.encode import SampleEncoder
from lit_cvit.data.tasks import Sample

ANSWERS = [
    *("red", " red", "  red", "\nred", "\n\nred", " \n red", "\tred", "\r\nred", "red ", "red\n"),
    *("5", "12.5", "-3", ".", ":", ": red", "...", "?!", "[0.1, 0.2]", "(a)", "'s", '"quoted"', "-"),
    *(
        "\u4e2d\u6587",
        "\uff21",
        "\u7b54\u6848",
        "\U0001f600",
        "\U0001f600 red",
        "\u00e9",
        "e\u0301",
        "\u0301x",
    ),
    *("\u0338", "\u200b", "\xa0red", "\ufeffred", "\u3000", " ", "\n", "ASSISTANT: red", "assistant\n", "a"),
]
# What no family has, and a family of somebody else might.
FORMATS = {
    "vicuna": ChatFormat(),
    "chatml": CHATML_TURNS,
    "mistral": ChatFormat(user="[INST] ", assistant=" [/INST]", between=" "),
    "no lead": ChatFormat(lead=""),
    "open bracket": ChatFormat(assistant=" ANSWER=", lead=""),
    "line": ChatFormat(assistant="\nAnswer:\n", lead=""),
}
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"]
# Merges wherever an answer meets what stands before it.
TEXTS = [
    f"{before}{answer}"
    for before in (":", ": ", "assistant\n", "=", "\n", "[/INST] ", "ASSISTANT:", "Answer:\n")
    for answer in ANSWERS
] * 3


def greedy_bytes() -> Tokenizer:
    """Byte-level, not split into words: everything joins with everything."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return trained_on_bytes(made)


def trained_on_bytes(made: Tokenizer) -> Tokenizer:
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return made


def words_of_bytes() -> Tokenizer:
    """Byte-level as GPT-2's and Qwen's: line breaks join with line breaks, spaces with words; composes."""
    made = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return trained_on_bytes(made)


def sentences() -> Tokenizer:
    """Pieces of whole sentences, spaces written as a mark, chosen by likelihood; across spaces too."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    made.train_from_iterator(
        TEXTS, UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return made


def word_pieces() -> Tokenizer:
    """Words, and punctuation by itself; what is unknown is one token."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL))
    return made


def looks_ahead() -> Tokenizer:
    """A turn's start is another token where a letter follows: the text before an answer is read with it."""
    made = greedy_bytes()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[A-Za-z]+(?=[:\n=]?\s*[a-z])|[A-Za-z]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


TOKENIZERS = {
    made.__name__: made for made in (greedy_bytes, words_of_bytes, sentences, word_pieces, looks_ahead)
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = TOKENIZERS[request.param]()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        extra_special_tokens=["<image>", "<|im_start|>", "<|im_end|>"],
    )


def encoder_of(tokenizer: Any, chat: ChatFormat) -> SampleEncoder:
    return SampleEncoder(
        tokenizer=tokenizer,
        image_processor=SimpleNamespace(),
        chat=chat,
        num_image_tokens=1,
        image_aspect="crop",
        max_length=4096,
    )


def require_prefixes(encoder: SampleEncoder | Backbone) -> None:
    """Every answer, after one turn and after another one with an answer of its own."""
    histories = ((), *(((("Q1 ", answer),)) for answer in ("\nred", ": 5", " ")))
    samples = [
        Sample("s", "T", "", "", (answer,), history=history, text=text)
        for answer in ANSWERS
        for history in histories
        for text in ("What colour?", "What:")
    ]
    prompts = encoder.encode(samples, with_answers=False)
    rows = encoder.encode(samples, with_answers=True)
    assert rows.answer_mask is not None
    for number, sample in enumerate(samples):
        prompt = prompts.inputs["input_ids"][number][prompts.inputs["attention_mask"][number] == 1].tolist()
        row = rows.inputs["input_ids"][number][rows.inputs["attention_mask"][number] == 1].tolist()
        learned = rows.answer_mask[number]
        assert row[: len(prompt)] == prompt, sample
        # From there on all is learned, and before it what earlier turns answered.
        assert learned[len(prompt) : len(row)].all(), sample
        assert bool(learned[: len(prompt)].any()) == bool(sample.history), sample


@pytest.mark.parametrize("chat", FORMATS)
def test_a_row_begins_with_its_prompt_for_every_tokenizer_and_format(tokenizer: Any, chat: str) -> None:
    encoder = encoder_of(tokenizer, FORMATS[chat])
    require_prefixes(encoder)
    samples = [Sample("s", "T", "", "", (answer,), text="Q:", history=(("a", "\nb"),)) for answer in ANSWERS]
    mask = encoder.encode(samples, with_answers=True).answer_mask
    assert mask is not None
    assert encoder.answer_tokens(samples) == mask.sum(1).tolist()
    lengths = encoder.encode(samples, with_answers=False).inputs["attention_mask"].sum(1).tolist()
    assert encoder.prompt_lengths(samples) == lengths


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_begins_with_its_prompt_in_every_family(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    family.build(tmp_path)
    settings: dict[str, Any] = family.settings
    require_prefixes(family.backbone(str(tmp_path), **settings))


def test_a_line_break_that_begins_an_answer_does_not_join_that_of_the_turn() -> None:
    made = words_of_bytes()
    whole = made.encode("assistant\n\nred").tokens
    assert "\u010a\u010a" in whole
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="</s>",
        extra_special_tokens=["<image>", "<|im_end|>", "<|im_start|>"],
    )
    encoder = encoder_of(wrapped, CHATML_TURNS)
    sample = Sample("s", "T", "", "", ("\nred",), text="Q")
    row = encoder.encode([sample], with_answers=True)
    assert row.answer_mask is not None
    ids = row.inputs["input_ids"][0]
    assert wrapped.convert_ids_to_tokens(ids[row.answer_mask[0]].tolist()) == ["\u010a", "red", "<|im_end|>"]
    assert wrapped.convert_ids_to_tokens(int(ids[~row.answer_mask[0]][-1])) == "\u010a"
