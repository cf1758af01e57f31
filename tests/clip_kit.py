"""A CLIP in miniature for tests: random weights, in the layout of a hub model."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit.utils import hub

PROJECTED, HIDDEN = 8, 16
_SIZE = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_clip_folder(folder: Path) -> Path:
    """Write a CLIP that takes texts of up to 16 tokens, letter by letter, and images of 16 pixels."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    text = transformers.CLIPTextConfig(
        **_SIZE,
        vocab_size=len(words),
        max_position_embeddings=16,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    vision = transformers.CLIPVisionConfig(**_SIZE, image_size=16, patch_size=8, projection_dim=PROJECTED)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=PROJECTED,
        initializer_factor=5.0,
    )
    with torch.random.fork_rng(devices=[]), hub.quiet():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder
