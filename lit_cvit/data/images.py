"""Images in files: found under the root only, opened defensively, always RGB.

The pixels are those that the common training scripts see: the first frame, without EXIF rotation.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from lit_cvit.data.errors import RecordError
from lit_cvit.data.image_kinds import HEAD_BYTES, SUSPICIOUS_BYTES, further_formats, kind_of, no_image

MAX_PIXELS = 89_478_485
"""Largest image that is decoded, in pixels: a quarter gigabyte of RGB, and Pillow's own warning limit."""

# Pillow would also open formats that run other programs (EPS) or that no data set of photographs uses.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


@dataclass(frozen=True)
class FileImage:
    """An image file under a root folder; an `ImageSource`.

    Attributes:
        root: Folder that the file must lie in, also after symbolic links are followed.
        path: Path of the file relative to the root, as the record gives it.
        record: File and line or index of the record, for messages; not part of the value.
    """

    root: Path
    path: str
    record: str = field(default="", compare=False)

    def locate(self) -> Path:
        """Return the real path of the file without decoding it.

        Raises:
            RecordError: the path is absolute, climbs or links out of the root, or names no file, an empty
                one, or a small one that is a text in the place of an image; names the file and the record.
        """
        written = PurePosixPath(self.path)
        if written.is_absolute() or PureWindowsPath(self.path).drive or ".." in written.parts:
            cause = "the path must be relative and without '..'"
            raise self._problem(cause, fix="it must stay under the image root")
        try:
            root = os.path.realpath(self.root)
            found = Path(os.path.realpath(os.path.join(root, self.path)))
            is_file, size = found.is_file(), found.stat().st_size if found.exists() else 0
        except (OSError, ValueError) as error:  # ValueError: a NUL character or a lone surrogate
            raise self._problem("cannot be looked up", f": {error}") from error
        if not found.is_relative_to(root):
            cause = "a symbolic link leads out of the image root"
            raise self._problem(cause, f", to {found}", fix="put the file in it")
        if not is_file:
            raise self._problem("no such file", fix="check the path and the image root")
        if not size:
            raise self._problem("the file is empty", " (0 bytes)", fix="fetch it again")
        if size <= SUSPICIOUS_BYTES and (kind := no_image(_head(found))) is not None:
            raise self._problem(f"not a readable image: it is {kind.name}", fix=kind.fix)
        return found

    def open(self) -> Image.Image:
        """Decode the image to RGB: alpha over white, 16 bits scaled to 8, first frame of an animation.

        Raises:
            RecordError: as in `locate`, or the file is not a readable image or is too large; names the file
                and the record.
        """
        found = self.locate()
        try:
            return decode_image(found)
        except RecordError as error:
            raise self._placed(error) from error

    def size(self) -> tuple[int, int]:
        """Read width and height in pixels off the header; they are those of the image that `open` returns.

        Raises:
            RecordError: as in `open`, but for damage behind the header.
        """
        found = self.locate()
        try:
            return image_size(found)
        except RecordError as error:
            raise self._placed(error) from error

    def _problem(self, cause: str, detail: str = "", *, fix: str = "") -> RecordError:
        what = f"image {self.path!r} under {self.root}: {cause}{detail}"
        return RecordError.of(what, place=self.record, cause=cause, fix=fix)

    def _placed(self, error: RecordError) -> RecordError:
        what = f"image {self.path!r} under {self.root}: {error.words}"
        return RecordError.of(what, place=self.record, cause=error.cause)


def decode_image(source: Path | BinaryIO) -> Image.Image:
    """Decode an image file to RGB: alpha over white, 16 bits scaled to 8, first frame of an animation.

    Raises:
        RecordError: it is not a readable image or is too large; says why, without a place.
    """
    with _opened(source) as image:
        image.load()
        return _to_rgb(image)


def image_size(source: Path | BinaryIO) -> tuple[int, int]:
    """Read width and height in pixels off the header of an image file.

    Raises:
        ValueError: it is no image or is too large; says why, without a place.
    """
    with _opened(source) as image:
        return image.size


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[Image.Image]:
    """An image file of which only the header is read yet; what goes wrong inside is a RecordError too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _identified(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        fix = f"at most {MAX_PIXELS} pixels are decoded; scale the image down"
        raise RecordError.of(f"too large ({error})", cause="too large", fix=fix) from error
    except Exception as error:  # decoders raise anything on damaged files; all of it means the same
        cause, kind = "not a readable image", kind_of(_head(source))
        if kind is not None:
            what = f"{cause}: it is {kind.name}"
            raise RecordError.of(what, cause=what, fix=kind.fix) from error
        raise RecordError.of(f"{cause} ({type(error).__name__}: {error})", cause=cause) from error


def _identified(source: Path | BinaryIO) -> Image.Image:
    try:
        return Image.open(source, formats=_FORMATS)
    except UnidentifiedImageError:
        further = further_formats(_head(source))
        if not further:
            raise
        return Image.open(source, formats=further)


def _head(source: Path | BinaryIO) -> bytes:
    """The first bytes of a file, none if it cannot be read; an open one is left at its start."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return file.read(HEAD_BYTES)
        except OSError:
            return b""
    source.seek(0)
    head = source.read(HEAD_BYTES)
    source.seek(0)
    return head


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Plain conversion clips at 255, which turns a 16-bit image white.
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")
