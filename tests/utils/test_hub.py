"""Model folders: which are complete, in today's and in the older form of weights."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from lit_cvit.utils import hub


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(name.encode())
    return path


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_config_and_one_file_of_weights_is_complete(tmp_path: Path, weights: str) -> None:
    assert not hub.has_weights(folder_of(tmp_path, weights))
    assert hub.has_weights(folder_of(tmp_path, "config.json"))


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_every_file_that_an_index_names_must_be_there(tmp_path: Path, weights: str) -> None:
    parts = {"a": f"1-{weights}", "b": f"2-{weights}"}
    folder_of(tmp_path, "config.json", parts["a"])
    (tmp_path / f"{weights}.index.json").write_text(json.dumps({"weight_map": parts}))
    assert not hub.has_weights(tmp_path)
    assert hub.has_weights(folder_of(tmp_path, parts["b"]))


@pytest.mark.parametrize("index", ["{", "{}", "[]"])
def test_a_broken_index_of_weights_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: no.*download or copy it again"):
        hub.has_weights(tmp_path)


@pytest.mark.parametrize(("weights", "rounds"), [("model.safetensors", 1), ("pytorch_model.bin", 2)])
def test_older_weights_are_downloaded_only_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, rounds: int
) -> None:
    asked: list[list[str]] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        names = [
            each for each in ("config.json", weights) if any(Path(each).match(p) for p in allow_patterns)
        ]
        return str(folder_of(tmp_path, *names))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.has_weights(hub.download("someone/model"))
    assert len(asked) == rounds


def test_older_weights_count_in_the_digest(tmp_path: Path) -> None:
    before = hub.digest(folder_of(tmp_path, "config.json"))
    assert hub.digest(folder_of(tmp_path, "pytorch_model.bin")) != before
