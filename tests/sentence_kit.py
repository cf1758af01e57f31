"""Text models in miniature for tests: random weights, plain and in the layout of sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from lit_cvit.utils import hub

WIDTH = 16


def build_text_folder(folder: Path) -> Path:
    """Write a BERT that takes texts of up to 64 letters; a model of transformers without any pooling."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)})
    tokenizer.model_max_length = 64
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]), hub.quiet():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_sentence_folder(
    folder: Path, text_folder: Path, pooling: str, *, normalize: bool, width: int | None = None
) -> Path:
    """Write a sentence-transformers model: the text model, a pooling, a projection to `width`, and a norm."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    with torch.random.fork_rng(devices=[]), hub.quiet():
        torch.manual_seed(1)
        modules = [Transformer(str(text_folder)), Pooling(WIDTH, pooling)]
        modules += [Dense(WIDTH, width)] if width else []
        modules += [Normalize()] if normalize else []
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder
