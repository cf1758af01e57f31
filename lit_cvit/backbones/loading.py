"""Loading models through transformers: from a folder or the hub, quantised or not, frozen and quiet."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from lit_cvit.backbones import layouts
from lit_cvit.utils import hub
from lit_cvit.utils.finite import not_finite
from lit_cvit.utils.wording import listed

Quantization = Literal["none", "nf4", "int8"]
DType = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: DType) -> torch.dtype:
    """The torch type of a `dtype` setting.

    Raises:
        ValueError: no such type; lists the allowed ones.
    """
    if name not in _DTYPES:
        raise ValueError(f"backbone dtype must be one of {', '.join(_DTYPES)}; got {name!r}")
    return _DTYPES[name]


def locate(name: str) -> tuple[Path, str]:
    """Find a backbone's folder; a local folder is used as it is, without the network.

    Returns:
        The folder, and where it comes from: `folder`, or `hub` and the commit.

    Raises:
        ValueError: neither a model folder nor a hub name that is cached or can be downloaded.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        layouts.require_known_layout(folder)
        if lacking := hub.lacking(folder):
            inner = sorted(folder.glob("snapshots/*/config.json"))
            fix = f"; give {inner[0].parent}" if inner else "; download or copy it again"
            raise ValueError(
                f"backbone name_or_path {name!r}: the folder is not complete, it lacks {lacking}{fix}. It "
                "must have config.json, tokenizer and processor files, and all its weights (*.safetensors)"
            )
        hub.require_whole_weights(folder)
        return folder, "folder"
    if not hub.is_hub_name(name):
        raise ValueError(
            f"backbone name_or_path {name!r} is not an existing folder; give a model folder, "
            "or a hub name such as llava-hf/llava-1.5-7b-hf"
        )
    layouts.require_known_name(name)
    try:
        found = hub.cached(name) or hub.download(name)
    except OSError as error:
        raise _unavailable(name, error) from error
    layouts.require_known_layout(found)
    if lacking := hub.lacking(found):
        words = f"the hub's copy of it, in {found}, lacks {lacking}; {hub.fetch_again(name, found)}"
        raise ValueError(f"backbone name_or_path {name!r}: {words}")
    try:
        hub.require_whole_weights(found)
    except ValueError as error:
        raise ValueError(f"{error}: {hub.fetch_again(name, found)}") from error
    return found, f"hub {found.name}"


def is_here(name: str) -> bool:
    """Whether a name is a folder, or a hub name of which the local cache has all weights."""
    return Path(name).expanduser().is_dir() or (hub.is_hub_name(name) and hub.cached(name) is not None)


def _unavailable(name: str, error: Exception) -> ValueError:
    """Why a hub model cannot be had, and how it can."""
    part = hub.cached_in_part(name)
    if part is not None and part[1]:
        folder, lacking = part
        return ValueError(
            f"backbone name_or_path {name!r}: what the hub's cache has of it, in {folder}, lacks {lacking}, "
            f"and the rest could not be downloaded ({type(error).__name__}). With network access "
            f"{hub.fetch_again(name, folder)}"
        )
    return ValueError(
        f"backbone name_or_path {name!r} is no folder here, is not in the hub's cache, and could not be "
        f"downloaded ({type(error).__name__}). Ways to get it: (1) run once with network access; "
        "(2) copy the cache of another machine and set HF_HOME; (3) give the path of a local folder"
    )


def model_type(folder: Path) -> str:
    """The kind of model that a folder's `config.json` names; nothing else is read.

    Raises:
        ValueError: the file is broken, or names none.
    """
    path = folder / "config.json"
    try:
        return str(hub.read_json(path)["model_type"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: it names no model_type; download or copy it again") from error


def load_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Read a folder's config with every dropout rate set to 0.

    A frozen backbone runs without dropout of its own, also in training mode: dropout belongs to adapters.

    Raises:
        ValueError: its `config.json` is broken, or names no kind of model.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise ValueError(f"model folder {folder.name!r}: {error} Fetch or copy it again") from error
    _without_dropout(config)
    return config


class Processor(NamedTuple):
    """What samples need of a transformers processor."""

    image_processor: Any
    tokenizer: Any


def load_processor(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load a folder's processor (tokenizer and image processor).

    Raises:
        ValueError: the folder lacks files of the processor, or they are broken.
    """
    try:
        with hub.quiet():
            return transformers.AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise _no_processor(folder, error) from error


def load_image_processor_and_tokenizer(
    folder: Path, *, trust_remote_code: bool, **settings: Any
) -> Processor:
    """Load the two alone: the processors of models that also take videos cannot do without torchvision.

    Args:
        folder: Model folder.
        trust_remote_code: Run code that comes with the model.
        settings: Settings of the image processor that replace the folder's.

    Raises:
        ValueError: the folder lacks files of one of them, or they are broken.
    """
    common = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        with hub.quiet():
            # One backend everywhere: with torchvision installed, the default's pixels would differ a little.
            images = transformers.AutoImageProcessor.from_pretrained(
                folder, backend="pil", **settings, **common
            )
            return Processor(images, transformers.AutoTokenizer.from_pretrained(folder, **common))
    except (OSError, ValueError) as error:
        raise _no_processor(folder, error) from error


def _no_processor(folder: Path, error: Exception) -> ValueError:
    """Which files of the processor are not there, or else what is wrong with them."""
    names = {
        "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
        "image processor": ("preprocessor_config.json", "processor_config.json"),
    }
    lacking = [
        f"{part} ({' or '.join(files)})"
        for part, files in names.items()
        if not any((folder / name).is_file() for name in files)
    ]
    if lacking:
        return ValueError(
            f"model folder {folder} lacks files of its {' and its '.join(lacking)}; copy them there"
        )
    first_line = str(error).strip().partition("\n")[0]
    return ValueError(
        f"model folder {folder} has broken files of its tokenizer or image processor, or of another model "
        f"({first_line}); download or copy them again"
    )


def load_model(
    folder: Path,
    config: Any,
    *,
    quantization: Quantization,
    dtype: DType,
    trust_remote_code: bool,
    full_precision: Sequence[str],
) -> Any:
    """Load an image-text-to-text model, in evaluation mode and with every parameter frozen.

    Args:
        folder: Model folder.
        config: Its config, from `load_config`.
        quantization: Storage of the linear layers.
        dtype: Type of what is not quantised, and of computation.
        trust_remote_code: Run code that comes with the model.
        full_precision: Paths of modules that are never quantised (whole prefixes).

    Raises:
        ValueError: the files are broken, lack weights of the model or hold some that are not finite, or a
            setting has an unknown value.
    """
    family: Any = transformers.AutoModelForImageTextToText
    try:
        with hub.quiet():
            model, report = family.from_pretrained(
                folder,
                config=config,
                dtype=torch_dtype(dtype),
                quantization_config=_quantization_config(quantization, dtype, full_precision),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                # They are refused below, by their names.
                ignore_mismatched_sizes=True,
            )
    except (SafetensorError, EOFError, pickle.UnpicklingError) as error:
        what = f"its weights are cut off or broken ({error!r})"
        raise ValueError(f"model folder {folder}: {what}; download or copy it again") from error
    if other := sorted(report["mismatched_keys"]):
        key, stored, expected = other[0]
        raise ValueError(
            f"model folder {folder}: the weights do not fit config.json: {key} has shape {tuple(stored)}, by "
            f"the config it is {tuple(expected)}; copy config and weights of one model there"
        )
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(f"{folder.name!r} lacks weights of the model: {listed(lacking)}")
    # Whatever decoding defaults the folder has, `generate` alone decides how answers are decoded.
    model.generation_config = transformers.GenerationConfig()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _require_finite(model, folder, quantization=quantization, dtype=dtype)
    if quantization == "nf4":
        _keep_packing(model)
    return model.eval()


def _require_finite(model: nn.Module, folder: Path, *, quantization: Quantization, dtype: DType) -> None:
    """Refuse weights that every answer and every loss would be nonsense of: one pass over them."""
    # Rounding to few bits makes a finite number of NaN, so a quantised model shows nothing.
    stored = [] if quantization == "none" else _stored_not_finite(folder)
    found = stored or not_finite(model.named_parameters())
    if not found:
        return
    what = f"{len(found)} of its weights hold numbers that are not finite (NaN, inf): {listed(found)}"
    cast = "; if they are stored in a wider type, load them with model.backbone.dtype: bfloat16"
    fix = f"download or copy them again{cast if dtype == 'float16' else ''}"
    raise ValueError(f"model folder {folder}: {what}; {fix}")


def _stored_not_finite(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            found += not_finite((name, file.get_tensor(name)) for name in names)
    return found


def empty_model(config: Any, *, dtype: DType, trust_remote_code: bool) -> Any:
    """The model of a config on torch's `meta` device: shapes and types of all tensors, but no numbers.

    Raises:
        ValueError: no such type.
    """
    family: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"), hub.quiet():
        model = family.from_config(config, dtype=torch_dtype(dtype), trust_remote_code=trust_remote_code)
    return model.requires_grad_(False).eval()


def _quantization_config(quantization: Quantization, dtype: DType, full_precision: Sequence[str]) -> Any:
    skip = list(full_precision)
    if quantization == "none":
        return None
    if quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    if quantization == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype(dtype),
            llm_int8_skip_modules=skip,
        )
    raise ValueError(f"backbone quantization must be one of none, nf4, int8; got {quantization!r}")


def _keep_packing(model: nn.Module) -> None:
    # On CPUs with AVX512-BF16, a forward pass without gradient would repack the weights and round their
    # scales to bfloat16 for good: the frozen model would change, and differently from machine to machine.
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _without_dropout(config: Any) -> None:
    for name, value in vars(config).items():
        if isinstance(value, transformers.PreTrainedConfig):
            _without_dropout(value)
        elif "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
