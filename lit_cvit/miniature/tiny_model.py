"""The architecture and tokenizer of `tiny`: a real LLaVA of about 1.2 million parameters.

CLIP vision tower (48 px, patches of 8), two-layer projector, Llama decoder, a byte-level BPE tokenizer of
its own and a `LlavaProcessor`; every class is transformers' own, so `tiny` runs the code of a 7B model.
"""

from __future__ import annotations

from collections.abc import Iterable

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lit_cvit.backbones import build
from lit_cvit.miniature.scenes import SIZE

PATCH = 8
VOCABULARY = 1400
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


def build_tokenizer(lines: Iterable[str], *, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the tokenizer. Single capitals and digits stay single tokens, as signs are read one by one."""
    return build.build_tokenizer(lines, vocab_size=vocabulary, special=_SPECIAL, alone="[A-Z](?![a-z])|[0-9]")


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Wrap the tokenizer with the torchvision-free CLIP image processor."""
    return build.build_processor(tokenizer, image_size=SIZE, patch_size=PATCH)


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    vision_size: int = 96,
    vision_layers: int = 3,
) -> LlavaForConditionalGeneration:
    """Build the model with random weights (the caller seeds torch)."""
    vision = CLIPVisionConfig(
        hidden_size=vision_size,
        intermediate_size=vision_size * 8 // 3,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=vision_size,
    )
    text = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=_SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)
