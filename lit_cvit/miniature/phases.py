"""What the steps of a pre-training leave, so that one that was cut off goes on with the same bits."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_cvit.miniature.recipe import Log, Recipe, round_to_half

_FOLDER, _RANDOM, _WRITTEN, _MODEL = "phases", "random_state", "written", "model."


class Trained(Protocol):
    """What steps change: the model, and which tokens answers had."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    written: Tensor


class PhaseFiles:
    """The files of the steps in the folder of a pre-training.

    Args:
        out: The folder.
        recipe: Its recipe.

    Raises:
        ValueError: the folder holds a step made by another recipe; names the settings that differ.
    """

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.out, self.recipe = out, recipe
        self.folder = out / _FOLDER
        self._seconds = 0.0

    @contextlib.contextmanager
    def log(self, echo: Callable[[str], None]) -> Iterator[Log]:
        """Append rows to `log.jsonl`; rows of a step that was cut off go first."""
        path = self.out / "log.jsonl"
        rows = self._rows(path)
        self._seconds = max((row.get("seconds", 0.0) for row in rows), default=0.0)
        start = time.perf_counter()
        with path.open("w", encoding="utf-8") as stream:

            def log(row: dict[str, object]) -> None:
                seconds = round(self._seconds + time.perf_counter() - start, 1)
                line = json.dumps({**row, "seconds": seconds})
                stream.write(line + "\n")
                stream.flush()
                echo(line)

            log({"phase": "recipe", **asdict(self.recipe), "threads": torch.get_num_threads()})
            stream.writelines(json.dumps(row) + "\n" for row in rows)
            stream.flush()
            yield log

    def restore(self, name: str, training: Trained) -> bool:
        """Take model and random state back to where they were after a step; False if it is still to do.

        Raises:
            ValueError: the step was made by another recipe; names the settings that differ.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return False
        self._check(name)
        stored = load_file(path)
        weights = {key.removeprefix(_MODEL): v.float() for key, v in stored.items() if key.startswith(_MODEL)}
        parameters = dict(training.model.named_parameters())
        with torch.no_grad():
            for key, weight in weights.items():
                parameters[key].copy_(weight)
        training.written.copy_(stored[_WRITTEN])
        torch.set_rng_state(stored[_RANDOM])
        return True

    def save(self, name: str, training: Trained) -> None:
        """Round the weights to half precision and keep them."""
        round_to_half(training.model)
        self.folder.mkdir(exist_ok=True)
        tensors = {f"{_MODEL}{key}": p.detach().half() for key, p in training.model.named_parameters()}
        tensors |= {_WRITTEN: training.written, _RANDOM: torch.get_rng_state()}
        (self.folder / f"{name}.json").write_text(json.dumps(asdict(self.recipe)), encoding="utf-8")
        temporary = self.folder / f".{name}"
        save_file(tensors, temporary)
        temporary.rename(self.folder / f"{name}.safetensors")

    def clear(self) -> None:
        """Remove the files of the steps; the model is written."""
        shutil.rmtree(self.folder)

    def _rows(self, path: Path) -> list[dict[str, float]]:
        done = {file.stem for file in self.folder.glob("*.safetensors")}
        if "sight" in done:
            done.add("spacing")
        if not path.is_file():
            return []
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row["phase"] in done]

    def _check(self, name: str) -> None:
        before = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        now = asdict(self.recipe)
        later = tuple(f"{each}_" for each in _after(name))
        changed = [key for key in now if not key.startswith(later) and before.get(key) != now[key]]
        if changed:
            named = ", ".join(f"{key} (was {before.get(key)}, is {now[key]})" for key in changed)
            raise ValueError(
                f"--out {self.out} holds the step {name!r} of another recipe: {named}; name another folder "
                "or remove it first"
            )


_ORDER = ("vision", "alignment", "language", "sight", "instruction")


def _after(name: str) -> tuple[str, ...]:
    return _ORDER[_ORDER.index(name) + 1 :]
