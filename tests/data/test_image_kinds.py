"""Files that are no image Pillow reads are named for what they are, with what to do."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageFile

from lit_cvit.data.benchmarks.general.table import decode_image
from lit_cvit.data.errors import RecordError
from lit_cvit.data.images import FileImage
from lit_cvit.data.validation.images import ImageLookup


def iso(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + bytes(64)


HEIC = iso(b"heic", b"mif1", b"heic")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 132\n"
KINDS = [
    (HEIC, "a HEIC photograph", "pillow-heif"),
    (iso(b"mif1", b"heix"), "a HEIC photograph", "convert it to JPEG or PNG"),
    (iso(b"mif1", b"avif") + b"broken", "an AVIF image", "convert it to JPEG or PNG"),
    (iso(b"isom", b"iso2", b"mp41"), "a video", "extract a frame"),
    (iso(b"qt  "), "a video", "extract a frame"),
    (b"RIFF\0\0\0\0AVI LIST", "a video", "extract a frame"),
    (b"\x1a\x45\xdf\xa3webm", "a video", "extract a frame"),
    (b"\xff\x0a\xfa\x1f", "a JPEG XL image", "convert it to JPEG or PNG"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image", "convert it to JPEG or PNG"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 image", "convert it to JPEG or PNG"),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing", "as PNG"),
    (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made -->\n<svg></svg>', "an SVG drawing", "as PNG"),
    (b"%PDF-1.7\n", "a PDF document", "as PNG"),
    (b"\n<!DOCTYPE html>\n<html><title>404</title>", "a web page", "fetch it again"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page", "fetch it again"),
    (b'{"error": "not found"}', "a JSON text", "fetch it again"),
    (b"PK\x03\x04....", "a ZIP archive", "unpack it"),
]


@pytest.mark.parametrize(
    ("content", "kind", "fix"), [*KINDS, (POINTER, "a pointer of Git LFS", "git lfs pull")]
)
def test_a_file_of_another_kind_is_named_with_its_remedy(
    content: bytes, kind: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    image = FileImage(tmp_path, "a.jpg", record="t.json, index 3")
    for look in (image.open, image.size):
        with pytest.raises(RecordError, match=f"not a readable image: it is {kind}") as caught:
            look()
        assert str(caught.value).startswith("t.json, index 3: image 'a.jpg'")
        assert fix in str(caught.value)
        # Files of one kind are listed as one cause.
        assert caught.value.cause == f"not a readable image: it is {kind}"
    with pytest.raises(RecordError, match=kind):
        decode_image(io.BytesIO(content))


@pytest.mark.parametrize(
    ("content", "kind"), [(POINTER, "a pointer of Git LFS"), (b"<html>404", "a web page")]
)
def test_a_text_in_the_place_of_an_image_is_found_without_decoding(
    content: bytes, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    Image.new("L", (1, 1)).save(tmp_path / "small.png")
    (tmp_path / "long.jpg").write_bytes(content + bytes(5000))
    ImageLookup().find(FileImage(tmp_path, "small.png"))
    # Only what is too small for a photograph is opened.
    ImageLookup().find(FileImage(tmp_path, "long.jpg"))
    with pytest.raises(RecordError, match=f"not a readable image: it is {kind}"):
        ImageLookup().find(FileImage(tmp_path, "a.jpg"))


def test_an_avif_file_is_read_where_pillow_reads_it(tmp_path: Path) -> None:
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (6, 4), (200, 30, 30)).save(tmp_path / "a.avif")
    image = FileImage(tmp_path, "a.avif")
    assert image.size() == image.open().size == (6, 4)
    red, green, _ = image.open().getpixel((3, 2))  # type: ignore[misc]
    assert abs(int(red) - 200) < 8 > abs(int(green) - 30)


@pytest.fixture
def pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the package: what it registers gives a red image of 3 x 2."""

    class Plugin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode, self.tile = (3, 2), "RGB", []

        def load(self) -> None:  # type: ignore[override]
            self.im = Image.new("RGB", (3, 2), "red").im

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    register = SimpleNamespace(
        register_heif_opener=lambda: Image.register_open("HEIF", Plugin),
        __spec__=SimpleNamespace(),
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", register)  # type: ignore[arg-type]


@pytest.mark.usefixtures("pillow_heif")
def test_a_heic_photograph_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    image = FileImage(tmp_path, "a.heic")
    assert image.size() == (3, 2)
    assert image.open().getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "b.heic").write_bytes(b"<html>")
    with pytest.raises(RecordError, match="a web page"):
        FileImage(tmp_path, "b.heic").open()
