"""The conversations of every family, exactly as published; braces mark what the loss counts.

No checkpoint is at hand: the strings are what the named public files say or render.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from family_kit import FAMILIES, Noise

from lit_cvit.backbones import Backbone
from lit_cvit.data.tasks import Batch, Sample

ONE = Sample("one", "Chat", "Q1", "", ("A1",), Noise(0))
TWO = Sample("two", "Chat", "Q2", "", ("A2",), Noise(0), history=(("Q1", "A1"),))
TEXT = Sample("text", "Chat", "Q1", "", ("A1",))


class Published(NamedTuple):
    """A family's conversations with both answers.

    Attributes:
        two: Two turns with an image.
        text: One turn without.
    """

    two: str
    text: str


# haotian-liu/LLaVA, llava/conversation.py (vicuna_v1), trained with --version v1 (scripts/v1_5/finetune.sh).
VICUNA = (
    "<s>A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
# QwenLM/Qwen3-VL, README.md ("Add vision ids"), which prints the prompt of a conversation.
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def chatml(image: str, system: str = "") -> Published:
    """ChatML; the line break after the last answer's end is left off, as no token follows it."""
    return Published(
        f"{system}<|im_start|>user\n{image}Q1<|im_end|>\n<|im_start|>assistant\n{{A1<|im_end|>}}\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n{A2<|im_end|>}",
        f"{system}<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n{{A1<|im_end|>}}",
    )


VICUNA_V1 = Published(
    VICUNA + "USER: <image>\nQ1 ASSISTANT:{ A1</s>}USER: Q2 ASSISTANT:{ A2</s>}",
    VICUNA + "USER: Q1 ASSISTANT:{ A1</s>}",
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PUBLISHED = {
    # haotian-liu/LLaVA, llava/conversation.py and llava/train/train.py (preprocess_v1); LLaVA-NeXT inferred.
    "llava": VICUNA_V1,
    "llava_next": VICUNA_V1,
    # huggingface/optimum-intel, optimum/exporters/openvino/utils.py ("llava-next"): the hub's template.
    "llava_next_mistral": Published(
        "<s>[INST] <image>\nQ1 [/INST]{ A1</s>} [INST] Q2 [/INST]{ A2</s>}",
        "<s>[INST] Q1 [/INST]{ A1</s>}",
    ),
    # huggingface/transformers, src/transformers/models/llava_onevision/
    # convert_llava_onevision_weights_to_hf.py (chat_template).
    "llava_onevision": chatml("<image>\n"),
    # QwenLM/Qwen3-VL, README.md; huggingface/optimum-intel, as above ("qwen2-vl-instruct").
    "qwen2_vl": chatml(QWEN_IMAGE, SYSTEM),
    # QwenLM/Qwen3-VL, README.md; huggingface/transformers,
    # tests/models/qwen2_5_vl/test_modeling_qwen2_5_vl.py (expected_input_ids).
    "qwen2_5_vl": chatml(QWEN_IMAGE, SYSTEM),
    # ollama/ollama, model/renderers/qwen3vl_nonthinking_test.go; hiyouga/LLaMA-Factory,
    # src/llamafactory/data/template.py (qwen3_vl_nothink).
    "qwen3_vl": chatml(QWEN_IMAGE),
    # huggingface/transformers, src/transformers/models/internvl/convert_internvl_weights_to_hf.py
    # (chat_template) and processing_internvl.py (<img>, </img>).
    "internvl": chatml("<img><IMG_CONTEXT></img>\n"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Backbone]:
    name: str = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    FAMILIES[name].build(folder)
    settings: dict[str, Any] = FAMILIES[name].settings
    return name, FAMILIES[name].backbone(str(folder), **settings)


def read(backbone: Backbone, batch: Batch) -> str:
    """The text of a batch of one, each image as one token, answers in braces."""
    ids = batch.inputs["input_ids"][0]
    mask = torch.zeros_like(ids) if batch.answer_mask is None else batch.answer_mask[0]
    text = ""
    for inside, run in groupby(zip(ids.tolist(), mask.tolist(), strict=True), key=lambda pair: pair[1]):
        tokens = [token for token, _ in run]
        once = [
            t for t, last in zip(tokens, [-1, *tokens], strict=False) if t != last or t != image_id(backbone)
        ]
        part = backbone.tokenizer.decode(once)
        text += f"{{{part}}}" if inside else part
    return text


def image_id(backbone: Backbone) -> int:
    return backbone.encoder.image_id


def test_every_family_has_its_published_conversations() -> None:
    assert PUBLISHED.keys() == FAMILIES.keys()


@pytest.mark.compat
def test_training_conversations_are_the_published_ones(named: tuple[str, Backbone]) -> None:
    name, backbone = named
    expected = PUBLISHED[name]
    assert read(backbone, backbone.encode([TWO], with_answers=True)) == expected.two
    assert read(backbone, backbone.encode([TEXT], with_answers=True)) == expected.text
    first_turn = expected.two.partition("}")[0] + "}"
    assert read(backbone, backbone.encode([ONE], with_answers=True)) == first_turn


@pytest.mark.compat
def test_generation_starts_where_the_published_answer_starts(named: tuple[str, Backbone]) -> None:
    name, backbone = named
    one = PUBLISHED[name].two.partition("{")[0]
    two = PUBLISHED[name].two.rpartition("{")[0].replace("{", "").replace("}", "")
    for sample, expected in ((ONE, one), (TWO, two), (TEXT, PUBLISHED[name].text.partition("{")[0])):
        assert read(backbone, backbone.encode([sample], with_answers=False)) == expected
        assert backbone.prompt(sample) == expected.removeprefix("<s>")
