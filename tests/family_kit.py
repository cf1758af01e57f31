"""Small models of every family of backbones with random weights, in the layout of a hub model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lit_cvit.backbones import Backbone, InternVL, Llava, LlavaNext, LlavaOnevision, Qwen2VL, Qwen3VL
from lit_cvit.backbones.build import build_llava_folder
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.utils import hub

TILE, PATCH = 32, 8
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML_TURNS = ChatFormat(
    user="<|im_start|>user\n",
    assistant="<|im_end|>\n<|im_start|>assistant\n",
    lead="",
    end="<|im_end|>",
    image="<image>",
    between="\n",
)
TEXT = ("What colour is the square? it is red", "Answer the question using a single word or phrase.")
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
GRID = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


@dataclass(frozen=True)
class Noise:
    """An image of seeded noise."""

    seed: int
    width: int = 40
    height: int = 30

    def open(self) -> Image.Image:
        pixels = np.random.default_rng(self.seed).integers(
            0, 256, (self.height, self.width, 3), dtype=np.uint8
        )
        return Image.fromarray(pixels)


@dataclass(frozen=True)
class Family:
    """A family: how its folder is made, and what is known about it.

    Attributes:
        build: Writes the folder.
        backbone: The class that reads it.
        settings: Settings of the backbone that a small model needs.
        rows: Rows of the projector for images of 40 x 30, of 20 x 60 and of 90 x 80 pixels.
        projector: Canonical names of its projector's layers.
    """

    build: Callable[[Path], object]
    backbone: Callable[..., Backbone]
    rows: tuple[int, int, int]
    projector: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def tokenizer(special: Sequence[str], *, end: str, pad: str, begin: str = "") -> Any:
    """A byte-level tokenizer that has `special` as single tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=340,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, special.index(begin))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=end,
        pad_token=pad,
        extra_special_tokens=list(special),
        **({"bos_token": begin} if begin else {}),
    )


def text_sizes(tokens: Any) -> dict[str, Any]:
    """The decoder's sizes."""
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokens),
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id,
        "bos_token_id": None,
    }


def write(folder: Path, kind: Any, config: Any, tokens: Any, images: Any) -> None:
    """Draw the weights and save model, tokenizer and image processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
    with hub.quiet():
        model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    images.save_pretrained(folder)


def build_llava_next(folder: Path, decoder: str = "llama") -> None:
    tokens = tokenizer(("<pad>", "<s>", "</s>", "<image>"), begin="<s>", end="</s>", pad="<pad>")
    vision = transformers.CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=48,
    )
    config = transformers.LlavaNextConfig(
        vision_config=vision.to_dict(),
        text_config={"model_type": decoder, **text_sizes(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=GRID,
    )
    write(folder, transformers.LlavaNextForConditionalGeneration, config, tokens, images)


def build_llava_onevision(folder: Path) -> None:
    tokens = tokenizer((*CHATML, "<image>", "<video>"), end="<|im_end|>", pad="<|endoftext|>")
    # Larger than the limit of two tiles allows, so that features are thinned out.
    grid = [[32, 32], [32, 64], [64, 32], [64, 64], [96, 96]]
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": TILE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", **text_sizes(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_2",
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": TILE, "width": TILE}, image_grid_pinpoints=grid)
    write(folder, transformers.LlavaOnevisionForConditionalGeneration, config, tokens, images)


def qwen_parts(vision: dict[str, Any], text: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer, image processor, and settings of the config that the three Qwen-VL models share."""
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = tokenizer((*CHATML, *names), end="<|im_end|>", pad="<|endoftext|>")
    start, stop, image, video = tokens.convert_tokens_to_ids(list(names))
    settings = {
        "vision_config": {"depth": 2, "num_heads": 4, "patch_size": PATCH, **vision},
        "text_config": {**text_sizes(tokens), "rope_parameters": ROPE, **text},
        "vision_start_token_id": start,
        "vision_end_token_id": stop,
        "image_token_id": image,
        "video_token_id": video,
    }
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, min_pixels=1024, max_pixels=9216)
    return tokens, images, settings


def build_qwen2_vl(folder: Path) -> None:
    tokens, images, settings = qwen_parts({"embed_dim": 48, "hidden_size": 64}, {})
    config = transformers.Qwen2VLConfig(**settings)
    write(folder, transformers.Qwen2VLForConditionalGeneration, config, tokens, images)


def build_qwen2_5_vl(folder: Path) -> None:
    vision = {"hidden_size": 48, "intermediate_size": 96, "out_hidden_size": 64}
    # Windows smaller than the images, so that the merger sees the patches in another order.
    windows = {"window_size": 32, "fullatt_block_indexes": [1]}
    tokens, images, settings = qwen_parts({**vision, **windows}, {})
    config = transformers.Qwen2_5_VLConfig(**settings)
    write(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, tokens, images)


def build_qwen3_vl(folder: Path) -> None:
    vision = {"hidden_size": 48, "intermediate_size": 96, "out_hidden_size": 64}
    deep = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    tokens, images, settings = qwen_parts({**vision, **deep}, {"head_dim": 16})
    config = transformers.Qwen3VLConfig(**settings)
    write(folder, transformers.Qwen3VLForConditionalGeneration, config, tokens, images)


def build_internvl(folder: Path) -> None:
    tokens = tokenizer((*CHATML, "<img>", "</img>", "<IMG_CONTEXT>"), end="<|im_end|>", pad="<|endoftext|>")
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": [TILE, TILE],
            "patch_size": [PATCH, PATCH],
        },
        text_config={"model_type": "qwen2", **text_sizes(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE})
    write(folder, transformers.InternVLForConditionalGeneration, config, tokens, images)


LINEAR = ("projector.linear_1", "projector.linear_2")

FAMILIES = {
    "llava": Family(build_llava_folder, Llava, (1, 1, 1), LINEAR, {"image_aspect": "crop"}),
    "llava_next": Family(build_llava_next, LlavaNext, (3, 3, 5), LINEAR),
    "llava_next_mistral": Family(
        lambda folder: build_llava_next(folder, "mistral"),
        LlavaNext,
        (3, 3, 5),
        LINEAR,
    ),
    "llava_onevision": Family(build_llava_onevision, LlavaOnevision, (3, 3, 10), LINEAR),
    "qwen2_vl": Family(
        build_qwen2_vl,
        Qwen2VL,
        (4, 4, 30),
        ("projector.mlp.0", "projector.mlp.2"),
        {"max_pixels": 9216},
    ),
    "qwen2_5_vl": Family(
        build_qwen2_5_vl,
        Qwen2VL,
        (4, 4, 30),
        ("projector.mlp.0", "projector.mlp.2"),
        {"max_pixels": 9216},
    ),
    "qwen3_vl": Family(
        build_qwen3_vl,
        Qwen3VL,
        (4, 4, 30),
        ("projector.linear_fc1", "projector.linear_fc2"),
        {"max_pixels": 9216},
    ),
    "internvl": Family(
        build_internvl,
        InternVL,
        (1, 4, 5),
        LINEAR,
        {"max_tiles": 4},
    ),
}
