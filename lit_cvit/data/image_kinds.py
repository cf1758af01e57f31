"""What a file is that Pillow did not read as an image, by its first bytes, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import NamedTuple

from PIL import Image

HEAD_BYTES = 512
"""So many first bytes decide what a file is."""
SUSPICIOUS_BYTES = 1024
"""Files of no more bytes are seldom photographs: pointers of Git LFS, answers of a server."""

_CONVERT = "convert it to JPEG or PNG"
# Brands of the ISO format, which photographs and videos share.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: What it is, with its article.
        fix: What to do about it.
    """

    name: str
    fix: str


_HEIC = Kind(
    "a HEIC photograph",
    f"{_CONVERT}, or install the package pillow-heif, with which it is read as it is",
)
_AVIF = Kind("an AVIF image", f"{_CONVERT}, or install a Pillow that reads AVIF (11.3 or newer)")
_VIDEO = Kind("a video", "a record shows one image; extract a frame of it as JPEG or PNG")
_WEB_PAGE = Kind("a web page", "the download brought an error or login page in its place; fetch it again")
_STARTS = (
    (b"version https://git-lfs", Kind("a pointer of Git LFS", "run `git lfs pull` where it was cloned")),
    (b"\xff\x0a", Kind("a JPEG XL image", _CONVERT)),
    (b"\x00\x00\x00\x0cJXL ", Kind("a JPEG XL image", _CONVERT)),
    (b"\x00\x00\x00\x0cjP  ", Kind("a JPEG 2000 image", _CONVERT)),
    (b"\xff\x4f\xff\x51", Kind("a JPEG 2000 image", _CONVERT)),
    (b"%PDF", Kind("a PDF document", "render its page as PNG, for example with pdftoppm")),
    (b"%!PS", Kind("an EPS or PostScript file", "render it as PNG")),
    (b"8BPS", Kind("a Photoshop file", _CONVERT)),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"PK\x03\x04", Kind("a ZIP archive", "unpack it")),
    (b"\x1f\x8b", Kind("a gzip archive", "unpack it")),
    (b'{"', Kind("a JSON text", "the download brought an error in its place; fetch it again")),
)


def kind_of(head: bytes) -> Kind | None:
    """What a file is by its first bytes; None for an image that should be read, or for what is not known."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        brands = _brands(head)
        if brands & {*_AVIF_BRANDS}:
            return _AVIF
        return _HEIC if brands & {*_HEIF_BRANDS} else _VIDEO
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _VIDEO
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype svg|<svg)", text, re.DOTALL):
        return Kind("an SVG drawing", "render it as PNG, for example with rsvg-convert")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return _WEB_PAGE
    return None


def no_image(head: bytes) -> Kind | None:
    """What a file is that no format reads; None for images, and for what is not known."""
    kind = kind_of(head)
    return None if kind in (_HEIC, _AVIF) else kind


def further_formats(head: bytes) -> tuple[str, ...]:
    """Formats of Pillow, beside the usual ones, that read such a file; none where a package is missing."""
    kind = kind_of(head)
    if kind is _HEIC and importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        return ("HEIF",)
    if kind is _AVIF:
        Image.init()
        return ("AVIF",) if "AVIF" in Image.OPEN else ()
    return ()


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of a file in the ISO format."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
