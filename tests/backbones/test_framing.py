"""What an image costs is bounded by its own pixels; ordinary images are framed pixel by pixel as ever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_kit import FAMILIES
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lit_cvit.backbones import Llava
from lit_cvit.backbones.framing import centre, keeps_the_centre, pad_to_square, scaled, shown_size
from lit_cvit.data.tasks import Sample, SampleError

MEAN = (0.48145466, 0.4578275, 0.40821073)
COLOUR = tuple(int(value * 255) for value in MEAN)


@dataclass(frozen=True)
class Strip:
    """An image of seeded noise that says its size."""

    width: int
    height: int

    def open(self) -> Image.Image:
        pixels = np.random.default_rng(0).integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def size(self) -> tuple[int, int]:
        return self.width, self.height


def whole_square(image: Image.Image) -> Image.Image:
    """As LLaVA's own code pads."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), COLOUR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def levels_apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("size", [(640, 480), (48, 301), (2048, 1), (1, 2048), (2400, 600), (700, 2100)])
def test_ordinary_images_are_padded_pixel_by_pixel(size: tuple[int, int]) -> None:
    image = Strip(*size).open()
    assert levels_apart(pad_to_square(image, MEAN), whole_square(image)) == 0


@pytest.mark.parametrize("size", [(2500, 100), (101, 2600), (2304, 575), (3001, 1)])
def test_a_square_computed_in_small_is_the_whole_square_scaled(size: tuple[int, int]) -> None:
    image = Strip(*size).open()
    if image.height > image.width:
        # Scaling goes along the image first, where Pillow goes by width first.
        turned = whole_square(image).transpose(Image.Transpose.TRANSPOSE).resize((2048, 2048))
        expected = turned.transpose(Image.Transpose.TRANSPOSE)
    else:
        expected = whole_square(image).resize((2048, 2048))
    assert levels_apart(pad_to_square(image, MEAN), expected) <= 1


@pytest.mark.parametrize("size", [(2500, 100), (100, 2500)])
def test_the_tower_sees_the_same_of_a_thin_image_to_the_golden_tolerance(size: tuple[int, int]) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    smooth = Strip(size[0] // 20, size[1] // 20).open().resize(size)
    images = [pad_to_square(smooth, MEAN), whole_square(smooth)]
    ours, theirs = processor(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((30_000, 10), 2048),
        ((10, 30_000), 2048),
        ((8_900_000, 10), 2048),
        # A photograph of 84 million pixels: twice as many are no surprise.
        ((12_000, 7_000), 12_000),
        ((9_400, 3_000), 9_400),
        ((12_000, 3_100), 2048),
        ((4_000, 1_000), 4_000),
        ((4_000, 999), 2048),
    ],
)
def test_a_square_has_few_times_the_pixels_of_its_image_or_is_small(size: tuple[int, int], side: int) -> None:
    assert shown_size(size, "pad") == (side, side)
    assert shown_size(size, "crop") == size
    assert side**2 <= max(2048**2, 4 * size[0] * size[1])


def test_the_square_of_a_thin_image_is_computed_without_the_whole() -> None:
    strip = pad_to_square(Image.new("RGB", (300_000, 10), "white"), MEAN)
    assert strip.size == (2048, 2048)
    rows = np.asarray(strip)[:, 1024]
    # Ten rows of 300,000 are less than a tenth of one of 2048.
    assert [tuple(rows[place]) for place in (0, 1000, 1048, 2047)] == [COLOUR] * 4
    white = (rows.astype(int) - COLOUR).sum(0) / (255 - np.array(COLOUR))
    assert white == pytest.approx(10 * 2048 / 300_000, abs=0.03)


def test_the_centre_of_a_long_image_alone_is_scaled_up() -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    assert keeps_the_centre(processor)
    for size in ((80, 10), (10, 80), (640, 480)):
        image = Strip(*size).open()
        assert centre(image) is image
    for size in ((1200, 10), (10, 1200), (333, 12)):
        image = Strip(*size).open()
        cut = centre(image)
        assert max(cut.size) <= 8 * min(size) + 1
        ours, theirs = processor(images=[cut, image], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)


@pytest.mark.parametrize("aspect", ["crop", "pad"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "qwen2_vl", "internvl"])
def test_the_thinnest_images_are_taken_or_refused_by_the_check(
    name: str, aspect: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    family.build(tmp_path)
    settings: dict[str, Any] = {**family.settings, "image_aspect": aspect}
    backbone = family.backbone(str(tmp_path), **settings)
    for size in ((1, 1), (1, 150), (3, 50), (2000, 10), (30_000, 10), (10, 30_000)):
        sample = Sample("thin", "T", "Q", "", ("A",), Strip(*size))
        if name == "qwen2_vl" and aspect == "crop" and max(size) == 30_000:
            with pytest.raises(SampleError, match=rf"{size[0]} x {size[1]} .* 200.*image_aspect to pad"):
                backbone.encoder.check(sample, with_answers=True)
            continue
        backbone.encoder.check(sample, with_answers=True)
        batch = backbone.encode([sample], with_answers=False)
        assert batch.inputs["attention_mask"].sum() == backbone.prompt_length(sample)
        assert batch.inputs["pixel_values"].numel() < 10**6


def clip_processor(side: int, cropped: int, **more: Any) -> CLIPImageProcessorPil:
    crop = {"height": cropped, "width": cropped}
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop, **more)


@pytest.mark.parametrize("more", [{}, {"resample": 0}, {"do_normalize": False}])
def test_squares_scaled_before_the_processor_have_the_pixels_that_it_makes_itself(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = clip_processor(48, 48, **more)
    images = [Strip(side, side).open() for side in (17, 48, 300)]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    monkeypatch.setattr(CLIPImageProcessorPil, "resize", None, raising=False)
    shown, left_out = scaled(images, processor)
    found = processor(images=shown, return_tensors="pt", **left_out)["pixel_values"]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("sizes", "processor"),
    [
        ([(48, 48), (48, 50)], clip_processor(48, 48)),
        ([(300, 300)], clip_processor(56, 48)),
        ([(300, 300)], clip_processor(48, 48, do_resize=False)),
    ],
    ids=["no square", "cropped to less", "not scaled"],
)
def test_other_images_are_left_to_the_processor(
    sizes: list[tuple[int, int]], processor: CLIPImageProcessorPil
) -> None:
    images = [Strip(*size).open() for size in sizes]
    shown, left_out = scaled(images, processor)
    assert left_out == {}
    assert all(one is other for one, other in zip(shown, images, strict=True))


def test_a_batch_of_a_fixed_size_has_the_pixels_of_the_processor(llava_folder: Path) -> None:
    backbone = Llava(str(llava_folder))
    image = Strip(90, 61)
    sample = Sample("1", "T", "What?", "", ("red",), image=image)
    processor = backbone.encoder.image_processor
    expected = processor(images=[whole_square(image.open())], return_tensors="pt")["pixel_values"]
    assert torch.equal(backbone.encode([sample], with_answers=True).inputs["pixel_values"], expected)
