"""Builds small LLaVA folders with random weights: the layout of a hub model, in a second and a megabyte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit.utils import hub

_SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
_TEXT = (
    "USER: What colour is the square? ASSISTANT: it is red",
    "Answer the question using a single word or phrase.",
    "Describe the image in one complete sentence. A blue circle is left of a green star.",
)


def build_tokenizer(
    texts: Iterable[str] = _TEXT, *, vocab_size: int = 400, special: Sequence[str] = _SPECIAL, alone: str = ""
) -> Any:
    """Train a byte-level BPE tokenizer with LLaVA's special tokens.

    Args:
        texts: What it is trained on.
        vocab_size: Most tokens.
        special: The special tokens, by id; "<unk>" is the only one that may be left out.
        alone: Pattern of what is never joined with its neighbours.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if alone:
        split = pre_tokenizers.Split(Regex(alone), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    begin = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", special.index("<s>"))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
        **({"unk_token": "<unk>"} if "<unk>" in special else {}),
    )


def build_processor(tokenizer: Any, *, image_size: int, patch_size: int) -> transformers.LlavaProcessor:
    """Wrap a tokenizer with CLIP's image processor, which needs no torchvision."""
    return transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build_llava_folder(
    folder: Path,
    *,
    hidden_size: int = 64,
    num_layers: int = 3,
    image_size: int = 32,
    patch_size: int = 8,
    max_length: int = 512,
    texts: Iterable[str] = _TEXT,
    seed: int = 0,
    tower: tuple[int, int] | None = None,
) -> Path:
    """Write a LLaVA with random weights (about 0.3 million by default), its tokenizer and processor.

    The random weights are larger than transformers would draw them: predictions differ clearly from one
    prompt to the next, which makes such a model a sensitive test of padding, masks and caches.

    Args:
        folder: Where to write; made if it does not exist.
        hidden_size: Width of tower and decoder; a multiple of 16.
        num_layers: Layers of tower and decoder.
        image_size: Side of the square the tower sees, in pixels.
        patch_size: Side of a patch, in pixels.
        max_length: Positions of the decoder.
        texts: What the tokenizer is trained on.
        seed: Seed of the weights; the global generator is left as it was.
        tower: Width, a multiple of 16, and layers of the tower, where they are not the decoder's.

    Returns:
        The folder.
    """
    tokenizer = build_tokenizer(texts)
    sizes = _sizes(hidden_size, num_layers)
    of_tower = _sizes(*tower) if tower is not None else sizes
    vision = transformers.CLIPVisionConfig(
        **of_tower, image_size=image_size, patch_size=patch_size, projection_dim=of_tower["hidden_size"]
    )
    config = transformers.LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=_text_config(tokenizer, sizes, max_length).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // patch_size) ** 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlavaForConditionalGeneration(config)
    with hub.quiet():
        model.save_pretrained(folder)
    build_processor(tokenizer, image_size=image_size, patch_size=patch_size).save_pretrained(folder)
    return folder


def _sizes(hidden_size: int, num_layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
    }


def _text_config(tokenizer: Any, sizes: dict[str, Any], max_length: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        **sizes,
        num_key_value_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
    )
