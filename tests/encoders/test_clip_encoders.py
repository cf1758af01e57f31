"""CLIP's towers as encoders: what they compute, where they are found, and how a text's encoder is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from clip_kit import build_clip_folder
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit import encoders
from lit_cvit.encoders import MINILM, ClipImageEncoder, ClipTextEncoder, SentenceEncoder, text_encoder

TEXTS = ["a red cat", "Answer the question.", "a", "word " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip_folder(tmp_path_factory.mktemp("clip"))


def images() -> list[Image.Image]:
    return [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue", "white")]


@torch.no_grad()
def test_texts_give_the_pooled_state_before_the_projection(folder: Path) -> None:
    encoder = text_encoder(str(folder))
    assert isinstance(encoder, ClipTextEncoder)
    got = encoder.encode(TEXTS)
    assert got.shape == (4, encoder.dimension) == (4, 16)
    model = transformers.CLIPTextModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    torch.testing.assert_close(got, model(**tokens).pooler_output, atol=1e-5, rtol=1e-4)
    assert float(torch.pdist(got).min()) > 0.1


@torch.no_grad()
def test_images_give_the_embedding_after_the_projection(folder: Path) -> None:
    encoder = ClipImageEncoder(str(folder))
    got = encoder.encode(images())
    assert got.shape == (3, encoder.dimension) == (3, 8)
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=images(), return_tensors="pt")
    torch.testing.assert_close(got, model(**pixels).image_embeds, atol=1e-5, rtol=1e-4)
    assert float(torch.pdist(got).min()) > 0.1
    assert encoder.encode([]).shape == (0, 8)
    assert encoder.source == f"folder {folder}"
    assert encoder.image_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_a_text_model_that_is_no_clip_is_a_sentence_encoder() -> None:
    assert type(text_encoder(MINILM)) is SentenceEncoder


def test_an_image_encoder_that_is_nowhere_says_the_ways_to_get_one(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "no/such-clip"):
        with pytest.raises(ValueError, match=f"image encoder '{name}' is not on this machine.*'tower'"):
            ClipImageEncoder(name).encode(images())


def test_an_image_encoder_must_be_a_clip() -> None:
    sentences = str(SentenceEncoder()._located.folder)
    with pytest.raises(ValueError, match="is a bert model, not a CLIP"):
        _ = ClipImageEncoder(sentences).dimension


def test_a_clip_without_all_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="lacks weights: vision_model.encoder.layers.2"):
        ClipImageEncoder(str(tmp_path)).encode(images())


def test_a_clip_with_weights_that_are_not_finite_is_refused(folder: Path, tmp_path: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(folder)
    model.visual_projection.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    CLIPImageProcessorPil.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"visual_projection\.weight holds numbers that are not finite"):
        ClipImageEncoder(str(tmp_path)).encode(images())


def test_only_the_newest_texts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, embedded = SentenceEncoder(), []

    def embed(text: str) -> torch.Tensor:
        embedded.append(text)
        return torch.ones(2)

    monkeypatch.setattr(encoders, "_KEPT", 2)
    monkeypatch.setattr(encoder, "_embed", embed)
    assert encoder.encode(["a", "b", "c"]).shape == (3, 2)
    encoder.encode(["b", "c", "a"])
    assert embedded == ["a", "b", "c", "a"]
