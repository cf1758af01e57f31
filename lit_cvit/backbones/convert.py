"""Puts a LLaVA-1.5 together from its parts: a Vicuna, a CLIP tower and the projector of LLaVA's first stage.

The original LLaVA code (github.com/haotian-liu/LLaVA) stores that projector alone, as `mm_projector.bin`:
two linear layers with a GELU between them. No weight is changed or rounded. One token, `<image>`, is added
where the vocabulary has none, with the mean of the other tokens' embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lit_cvit.utils import hub
from lit_cvit.utils.finite import require_finite

_IMAGE = "<image>"
_NAMES = {
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
}


def convert_llava(projector: Path, language_model: str, vision_tower: str, out: Path) -> Path:
    """Write a folder in the hub's LLaVA-1.5 format, for the backbone `Llava`.

    All weights are held in memory once (7B: about 14 GB).

    Args:
        projector: `mm_projector.bin` of an original LLaVA checkpoint.
        language_model: Folder or hub name of the language model, for example `lmsys/vicuna-7b-v1.5`.
        vision_tower: Folder or hub name of the CLIP model, for example `openai/clip-vit-large-patch14-336`.
        out: Folder to write; must be empty or not exist.

    Returns:
        The folder.

    Raises:
        ValueError: the folder is not empty, the file is no such projector, a weight is not finite, or the
            parts do not fit together.
    """
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise ValueError(f"--out {out} is not empty; give a new folder")
    layers = read_projector(projector)
    _require_finite("projector", str(projector), layers)
    with hub.quiet():
        language = _load(transformers.AutoModelForCausalLM, "language_model", language_model)
        tokenizer = _load(transformers.AutoTokenizer, "language_model", language_model)
        tower = _load(transformers.CLIPVisionModel, "vision_tower", vision_tower)
        images = _load(transformers.AutoImageProcessor, "vision_tower", vision_tower, backend="pil")
    _require_finite("language_model", language_model, language.state_dict())
    _require_finite("vision_tower", vision_tower, tower.state_dict())
    _check_sizes(projector, layers, tower.config.hidden_size, language.config.hidden_size)
    _add_image_token(language, tokenizer)
    config = transformers.LlavaConfig(
        vision_config=tower.config.to_dict(),
        text_config=language.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        dtype=language.dtype,
    )
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    parts = {
        "model.vision_tower": tower.state_dict(),
        "model.multi_modal_projector": layers,
        "model.language_model": language.get_decoder().state_dict(),
        "lm_head": language.get_output_embeddings().state_dict(),
    }
    state = {f"{path}.{name}": value for path, part in parts.items() for name, value in part.items()}
    model.load_state_dict(state, assign=True)
    processor = transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
    )
    with hub.quiet():
        model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def read_projector(path: Path) -> dict[str, Tensor]:
    """The tensors of an `mm_projector.bin`, by their names in transformers' projector.

    Raises:
        ValueError: there is no such file, or it holds anything else than two linear layers.
    """
    if not path.is_file():
        raise ValueError(f"--projector {path} cannot be read: no such file; give an mm_projector.bin")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on other files; all of it means the same
        what = "cannot be read as a file of tensors: it is cut off, broken or of another kind"
        raise ValueError(f"--projector {path} {what}; download or copy it again") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"--projector {path} must hold tensors by name; it holds {stored!r:.80}")
    found = {str(name).rpartition("mm_projector.")[2]: value for name, value in stored.items()}
    if set(found) != set(_NAMES):
        raise ValueError(
            f"--projector {path} must hold model.mm_projector.0 and .2, weight and bias (two linear layers, "
            f"`mlp2x_gelu`); it holds {', '.join(map(str, stored)) or 'nothing'}"
        )
    return {_NAMES[name]: value for name, value in found.items()}


def _load(kind: Any, option: str, name: str, **settings: Any) -> Any:
    if issubclass(kind, nn.Module) or kind is transformers.AutoModelForCausalLM:
        settings["dtype"] = "auto"
    try:
        return kind.from_pretrained(name, **settings)
    except (OSError, ValueError) as error:
        raise ValueError(f"--{option} {name!r} cannot be loaded ({kind.__name__}): {error}") from error


def _require_finite(option: str, name: str, tensors: Mapping[str, Tensor]) -> None:
    require_finite(
        tensors, place=f"--{option} {name}", fix="give another copy, or one of training that did not diverge"
    )


def _check_sizes(path: Path, layers: dict[str, Tensor], vision: int, text: int) -> None:
    expected = {
        "linear_1.weight": (text, vision),
        "linear_1.bias": (text,),
        "linear_2.weight": (text, text),
        "linear_2.bias": (text,),
    }
    for name, shape in expected.items():
        if tuple(layers[name].shape) != shape:
            raise ValueError(
                f"--projector {path}: {name} has shape {tuple(layers[name].shape)}, but a tower of width "
                f"{vision} and a language model of width {text} need {shape}; give the parts that it was "
                "trained with"
            )


def _add_image_token(language: Any, tokenizer: Any) -> None:
    tokenizer.add_tokens([_IMAGE], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    known = language.get_input_embeddings().num_embeddings
    if len(tokenizer) <= known:
        return
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (language.get_input_embeddings(), language.get_output_embeddings()):
        weight = layer.weight.data
        weight[known:] = weight[:known].float().mean(dim=0).to(weight.dtype)
