from __future__ import annotations

import dataclasses
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_cvit.data import images
from lit_cvit.data.images import FileImage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def save(root: Path, image: Image.Image, name: str = "a.png", **options: Any) -> FileImage:
    image.save(root / name, **options)
    return FileImage(root, name, record="t.json, index 3")


def only_colour(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    (colour,) = {tuple(pixel) for row in np.asarray(image).tolist() for pixel in row}
    return colour


def message_of(image: FileImage) -> str:
    with pytest.raises(ValueError, match="^t.json, index 3: image ") as caught:
        image.open()
    return str(caught.value)


def test_pixels_of_an_rgb_file_come_back(root: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(save(root, Image.fromarray(pixels)).open()), pixels)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("I;16", (2, 2), 65535), (255, 255, 255)),
        (Image.new("I;16", (2, 2), 257 * 100), (100, 100, 100)),
        (Image.new("RGBA", (2, 2), (200, 10, 10, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (0, 51)), (204, 204, 204)),
        (Image.new("RGB", (2, 2), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE), (9, 8, 7)),
    ],
)
def test_every_mode_becomes_rgb(root: Path, image: Image.Image, expected: tuple[int, ...]) -> None:
    assert only_colour(save(root, image).open()) == expected


def test_a_transparent_palette_entry_becomes_white(root: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30] * 2)
    assert only_colour(save(root, image, transparency=0).open()) == (255, 255, 255)


def test_cmyk_becomes_rgb(root: Path) -> None:
    image = save(root, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tiff")
    assert only_colour(image.open()) == (255, 0, 0)


def test_an_animation_gives_its_first_frame(root: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    image = save(root, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert only_colour(image.open()) == (255, 0, 0)


def test_floating_point_pixels_are_refused(root: Path) -> None:
    message = message_of(save(root, Image.new("F", (2, 2), 0.5), "a.tiff"))
    assert message.endswith("floating-point pixels have no fixed range; save it with 8 or 16 bits)")


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    save(root, Image.new("RGB", (2, 2), "red"))
    (root / "link.png").symlink_to(root / "a.png")
    assert FileImage(root, "link.png").locate() == (root / "a.png").resolve()


def test_a_root_that_is_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    save(root, Image.new("RGB", (2, 2), "red"))
    (tmp_path / "linked").symlink_to(root)
    assert only_colour(FileImage(tmp_path / "linked", "a.png").open()) == (255, 0, 0)


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "C:\\x.png", "a/.."])
def test_a_path_that_leaves_the_root_is_refused(root: Path, path: str) -> None:
    fix = "the path must be relative and without '..'; it must stay under the image root"
    image = FileImage(root, path, record="t.json, index 3")
    assert message_of(image) == f"t.json, index 3: image {path!r} under {root}: {fix}"


def test_a_link_out_of_the_root_is_refused(root: Path, tmp_path: Path) -> None:
    save(tmp_path, Image.new("RGB", (2, 2), "red"), "secret.png")
    (root / "a.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    for path in ("a.png", "folder/secret.png"):
        message = message_of(FileImage(root, path, record="t.json, index 3"))
        target = (tmp_path / "secret.png").resolve()
        assert message.endswith(
            f"a symbolic link leads out of the image root, to {target}; put the file in it"
        )


@pytest.mark.parametrize(("path", "why"), [("none.png", "no such file"), (".", "no such file")])
def test_a_missing_file_is_named_with_its_record(root: Path, path: str, why: str) -> None:
    expected = f"t.json, index 3: image {path!r} under {root}: {why}; check the path and the image root"
    assert message_of(FileImage(root, path, record="t.json, index 3")) == expected


@pytest.mark.parametrize("path", ["a\0b.png", "\ud800.png", "x" * 5000])
def test_an_impossible_file_name_is_one_clear_error(root: Path, path: str) -> None:
    message = message_of(FileImage(root, path, record="t.json, index 3"))
    assert message.startswith(f"t.json, index 3: image {path!r} under {root}: cannot be looked up: ")


def test_an_empty_file_is_refused(root: Path) -> None:
    (root / "a.png").touch()
    message = message_of(FileImage(root, "a.png", record="t.json, index 3"))
    assert message.endswith("the file is empty (0 bytes); fetch it again")


def test_a_truncated_image_is_refused(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = save(root, Image.fromarray(noise))
    (root / "a.png").write_bytes((root / "a.png").read_bytes()[:-200])
    assert f"image 'a.png' under {root}: not a readable image (OSError: " in message_of(image)


def test_a_file_of_another_kind_is_refused(root: Path) -> None:
    (root / "a.png").write_bytes(b"hello")
    message = message_of(FileImage(root, "a.png", record="t.json, index 3"))
    assert "not a readable image (UnidentifiedImageError: " in message
    (root / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    message = message_of(FileImage(root, "a.png", record="t.json, index 3"))
    assert "not a readable image: it is an EPS or PostScript file" in message


@pytest.mark.parametrize("side", [9_500, 20_000, 200_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(root: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    (root / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    message = message_of(FileImage(root, "a.png", record="t.json, index 3"))
    assert "too large (" in message
    assert message.endswith("at most 89478485 pixels are decoded; scale the image down")


def test_the_pixel_limit_is_our_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = save(root, Image.new("RGB", (10, 10)))
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    assert "too large (10 x 10 pixels); at most 99 pixels are decoded" in message_of(image)


def test_a_file_image_is_a_picklable_value_and_the_record_is_no_part_of_it(root: Path) -> None:
    image = FileImage(root, "a.png", record="t.json, index 3")
    copy = pickle.loads(pickle.dumps(image))
    assert copy == image
    assert copy.record == image.record
    assert hash(FileImage(root, "a.png", record="other")) == hash(image)
    with pytest.raises(dataclasses.FrozenInstanceError):
        image.path = "b.png"  # type: ignore[misc]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_the_header_has_the_size_of_the_image(root: Path, suffix: str) -> None:
    image = save(root, Image.new("RGB", (5, 3)), f"a.{suffix}")
    assert image.size() == image.open().size == (5, 3)


def test_a_size_that_cannot_be_read_is_an_error_as_the_image_is(root: Path) -> None:
    (root / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="t.json, index 3: image 'a.png'.*not a readable image"):
        FileImage(root, "a.png", record="t.json, index 3").size()
