"""Finds raw files and images under RAW, and says where one that is missing was looked for and may lie."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from lit_cvit.data.prepare.base import Converter, Raw, Request
from lit_cvit.data.prepare.scanning import packing

NO_IMAGE = "image file missing"
LINKED_OUT = "image behind a link that leads out of the folder of the data set"
_SHOWN = 3


def all_raw(converter: Converter, request: Request) -> list[Raw]:
    """Raw files and folders that a request needs, each once."""
    found = [raw for split in converter.splits[request.benchmark].values() for raw in split.raw]
    return [
        raw
        for raw in dict.fromkeys(found)
        if raw.is_list or not raw.path.endswith("/") or not request.without_images
    ]


def raw_problems(converter: Converter, request: Request) -> dict[Raw, str]:
    """Find the raw files of a task that are missing or not usable, and say what is wrong with each."""
    problems, needed = {}, all_raw(converter, request)
    for raw in needed:
        path = request.raw / raw.path
        try:
            if path.exists():
                problem = _problem_of(raw, path, request.raw / converter.images, request)
            else:
                problem = "" if raw.optional else f"missing{_elsewhere(raw, needed, request.raw)}"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            problems[raw] = problem
    return problems


def _problem_of(raw: Raw, path: Path, images: Path, request: Request) -> str:
    is_folder = raw.path.endswith("/")
    if path.is_dir() != is_folder:
        return "a file, it must be a folder" if is_folder else "a folder, it must be a file"
    if not (any(path.iterdir()) if is_folder else path.stat().st_size):
        return "empty"
    if not is_folder:
        packed = packing(path)
        return f"still packed ({packed}); unpack it" if packed else ""
    # The records' images are read only if they lie under the image root, links followed.
    if not request.without_images and not path.resolve().is_relative_to(images.resolve()):
        return (
            f"a link that leads out of {images}, to {path.resolve()}; images are only read if they lie "
            f"under it: move the folder there, or let {images} be the link"
        )
    return ""


def _elsewhere(raw: Raw, needed: Iterable[Raw], folder: Path) -> str:
    """Tell where a missing file may lie instead: some programs unpack into a folder of the archive's name."""
    data_set, name = raw.path.partition("/")[0], Path(raw.path).name
    taken = {folder / each.path for each in needed}
    for pattern in (name, f"{data_set}/{name}", f"{data_set}/*/{name}", f"{data_set}/*/*/{name}"):
        for path in sorted(folder.glob(pattern)):
            if path not in taken and path.is_dir() == raw.path.endswith("/"):
                return f"; there is {path.relative_to(folder)}: if it is this, move it"
    return ""


class ImageFolder:
    """The folder that the images of records are relative to; remembers those that it has not.

    Args:
        folder: The folder; None where images are not looked for.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.lost: dict[str, str] = {}
        self._root = "" if folder is None else os.path.realpath(folder)
        # Questions about one image mostly stand together, and so do the images of one folder.
        self._cached_problem = lru_cache(maxsize=1024)(self._problem)
        self._real_folder = lru_cache(maxsize=1024)(os.path.realpath)

    def problem(self, image: str) -> str:
        """Why the image of a record cannot be read, as a reason to drop it; empty if it can."""
        if self.folder is None or not image:
            return ""
        reason = self._cached_problem(image)
        if reason and len(self.lost) < _SHOWN:
            self.lost[image] = reason
        return reason

    def _problem(self, image: str) -> str:
        path = os.path.join(self._root, image)
        if not os.path.isfile(path):
            return NO_IMAGE
        place, name = os.path.split(path)
        real = os.path.join(self._real_folder(place), name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return "" if Path(real).is_relative_to(self._root) else LINKED_OUT

    def where(self) -> str:
        """The folder that was looked in, and examples of what it has not; empty if nothing is lost."""
        return f"under {self.folder}, such as {', '.join(self.lost)}" if self.lost else ""

    def advice(self) -> str:
        """What to do about the first image that is lost; empty if none is."""
        if self.folder is None or not self.lost:
            return ""
        image, reason = next(iter(self.lost.items()))
        place = self.folder / image
        if reason == LINKED_OUT:
            return (
                f"{image} is behind a link to {place.resolve()}; move what it leads to into {self.folder}, "
                "or let that folder be the link"
            )
        deeper = next(iter(sorted(place.parent.glob(f"*/{glob.escape(place.name)}"))), None)
        hint = f"; there is {deeper}: move what is in that folder up" if deeper else ""
        return f"unpack them there, or give --without_images if they lie elsewhere{hint}"
