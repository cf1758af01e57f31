"""Model files: finding them in the hub's cache, telling them apart, and reading them without noise."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_cvit.utils.wording import listed

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
# Older models, such as openai/clip-vit-large-patch14-336, have only these; they are read as tensors alone.
_OLDER = ("pytorch_model*.bin",)
_HARMLESS = ("gemm_4bit_forward", "inputs will be cast")
_WHOLE = 64 << 20
_PIECE = 1 << 20
_LARGEST_POINTER = 1024


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form `organisation/model`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def has_weights(folder: Path) -> bool:
    """Whether a model folder has its config and all its weights, as safetensors or as older PyTorch files.

    Raises:
        ValueError: an index of weights is broken.
    """
    whole = any(_is_whole(folder, name) for name in ("model.safetensors", "pytorch_model.bin"))
    return whole and (folder / "config.json").is_file()


def _is_whole(folder: Path, name: str) -> bool:
    """Whether weights of a name are there, in one file or in every file that their index names."""
    index = folder / f"{name}.index.json"
    names = _indexed(index) if index.is_file() else [name]
    return all((folder / each).is_file() for each in names)


def _indexed(index: Path) -> list[str]:
    """Names of the files of weights that an index has.

    Raises:
        ValueError: it is broken; names it.
    """
    try:
        return sorted(set(read_json(index)["weight_map"].values()))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{index}: no index of weights ({error!r}); download or copy it again") from error


def lacking(folder: Path) -> str:
    """What a model folder lacks of config and weights, in words; empty where it has both.

    Raises:
        ValueError: an index of weights is broken.
    """
    if has_weights(folder):
        return ""
    found = [] if (folder / "config.json").is_file() else ["config.json"]
    weights = ("model.safetensors", "pytorch_model.bin")
    if not any(_is_whole(folder, name) for name in weights):
        found.append(_lacking_weights(folder, weights))
    # What the cache links to may have been deleted, or never have been fetched.
    dangling = sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists())
    if dangling:
        found.append(f"the files that its links {listed(dangling)} lead to")
    return " and ".join(found)


def _lacking_weights(folder: Path, weights: Iterable[str]) -> str:
    for name in weights:
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = _indexed(index)
            lost = [each for each in names if not (folder / each).is_file()]
            return f"{len(lost)} of {len(names)} files that {index.name} names ({listed(lost)})"
    return "weights (model.safetensors, or files and their index)"


def cached_in_part(name: str) -> tuple[Path, str] | None:
    """The folder that a hub model has in the local cache, and what it lacks; None where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        return folder, lacking(folder)
    except LocalEntryNotFoundError:
        return None


def fetch_again(name: str, folder: Path) -> str:
    """How a model of the cache is downloaded anew; a damaged file would be taken as it is.

    Args:
        name: Its hub name.
        folder: Its folder in the cache, `.../models--organisation--model/snapshots/<commit>`.
    """
    return f"delete {folder.parents[1]} and download it again with network access: `hf download {name}`"


def require_whole_weights(folder: Path) -> None:
    """Refuse files of weights that are cut off; of each only its table of contents is read.

    Raises:
        ValueError: a file of weights is cut off, broken, or only a pointer of Git LFS; names it and the fix.
    """
    for path in sorted(path for pattern in (*_FILES, *_OLDER) for path in folder.glob(pattern)):
        if path.is_file() and is_lfs_pointer(path):
            fix = "run `git lfs pull` in that folder, or `hf download` the model"
            raise ValueError(f"{path}: a pointer of Git LFS, not the file itself; {fix}")
    for path in sorted({*folder.glob("*.safetensors"), *folder.glob(_OLDER[0])}):
        problem = _cut_off(path) if path.suffix == ".safetensors" else _broken_archive(path)
        if problem:
            raise ValueError(f"{path}: cut off or broken ({problem}); download or copy it again")


def _cut_off(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            return f"it ends inside its header, after {size} bytes"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return "its header is not that of a safetensors file"
    expected = 8 + length + max(ends, default=0)
    return f"it has {size} bytes, but {expected} by its header" if size != expected else ""


def _broken_archive(path: Path) -> str:
    with path.open("rb") as file:
        # Files from before torch 1.6 are pickles; only reading them shows where they end.
        is_archive = file.read(2) == b"PK"
    size = path.stat().st_size
    lacks_end = not size or (is_archive and not zipfile.is_zipfile(path))
    return f"it has {size} bytes and lacks its end" if lacks_end else ""


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what `git clone` leaves of a large one where Git LFS is not installed."""
    if path.stat().st_size > _LARGEST_POINTER:
        return False
    return path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/")


def read_json(path: Path) -> Any:
    """The content of a model's JSON file.

    Raises:
        ValueError: the file is broken; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a valid JSON file ({error}); download or copy it again") from error


def cached(name: str, is_complete: Callable[[Path], bool] = has_weights) -> Path | None:
    """The complete folder of a hub model in the local cache, or None; never uses the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if is_complete(folder) else None


def is_offline() -> bool:
    """Whether the hub may not be asked (`HF_HUB_OFFLINE=1`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(name: str, is_complete: Callable[[Path], bool] = has_weights) -> Path:
    """Download a hub model's config, tokenizer and weights into the cache; older weights where need be.

    Raises:
        OSError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
    if not is_complete(folder):
        folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *_OLDER]))
    return folder


def digest(folder: Path, inside: Iterable[str] = ()) -> str:
    """SHA-256 over the model files of a folder, to recognise the same model again.

    Files up to 64 MiB count whole. Of larger ones the size and the first, middle and last MiB count: a
    7B model is distinguished from a fine-tuned copy in well under a second.

    Args:
        folder: The folder; of folders in it, none counts by itself.
        inside: Names of folders in it that count too.
    """
    total = hashlib.sha256()
    places = (folder, *(folder / name for name in inside))
    files = {path for place in places for pattern in (*_FILES, *_OLDER) for path in place.glob(pattern)}
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        size = path.stat().st_size
        total.update(f"{name}:{size}\n".encode())
        starts = (0, size // 2, size - _PIECE) if size > _WHOLE else range(0, size, _PIECE)
        with path.open("rb") as file:
            for start in starts:
                file.seek(start)
                total.update(file.read(_PIECE))
    return total.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' notices and loading bars, and bitsandbytes' harmless ones, off the terminal."""
    from transformers.utils import logging as notices

    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(_is_worth_showing)
    level, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    try:
        yield
    finally:
        notices.set_verbosity(level)
        if bars:
            notices.enable_progress_bar()


def _is_worth_showing(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in _HARMLESS)
