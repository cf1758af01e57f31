"""Images as an image processor is to see them, at a cost that their own pixels bound.

A square around a long thin image has many times its pixels: of 30000 x 10 it would take 2.7 GB. Such a square
is computed in small. A processor that scales the shorter side up and crops the centre would first make a
strip of as many pixels; it is given the middle of the image. All other images are framed as LLaVA's own code
does, pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image

from lit_cvit.data.images import MAX_PIXELS
from lit_cvit.data.tasks import Sample

_SMALL = 2048
"""Side in pixels that any square may have, and that of squares computed in small; image towers see less."""

# A square may have so many times the pixels of its image; beyond what is decoded at all, only twice.
_MOST_PADDING, _MOST_PADDING_LARGE = 4, 2
# Centre that is kept for a processor that crops, in lengths of the shorter side.
_CENTRE = 8
# How far a pixel of a bicubic filter reaches, in pixels of the coarser picture.
_REACH = 2


def open_images(
    samples: Sequence[Sample], *, aspect: Literal["pad", "crop"], mean: Sequence[float], centred: bool
) -> list[Image.Image]:
    """The RGB images of the samples that have one, in order, as an image processor is to see them.

    Args:
        samples: The samples.
        aspect: `pad` to a square, or `crop`, which the processor does.
        mean: The processor's mean colour, which pads.
        centred: Whether the processor scales the shorter side to its size and keeps the central square alone.

    Raises:
        ValueError: the aspect is unknown, or an image is missing or unreadable; names it.
    """
    if aspect not in ("pad", "crop"):
        raise ValueError(f"image_aspect must be 'pad' or 'crop', got {aspect!r}")
    images = [sample.image.open() for sample in samples if sample.image is not None]
    if aspect == "pad":
        return [pad_to_square(image, mean) for image in images]
    return [centre(image) for image in images] if centred else images


def keeps_the_centre(image_processor: Any) -> bool:
    """Whether an image processor scales the shorter side to its size and keeps the central square alone."""
    return bool(image_processor.do_center_crop) and dict(image_processor.size).keys() == {"shortest_edge"}


def scaled(images: Sequence[Image.Image], image_processor: Any) -> tuple[list[Image.Image], dict[str, bool]]:
    """Squares at the size of a processor that keeps the centre, and its steps that would only copy them.

    The processor's own scaling has Pillow compute the same pixels, but turns each image into an array before
    and back into an image for it, a fifth to a third of its time.

    Args:
        images: RGB images.
        image_processor: One that `keeps_the_centre`.

    Returns:
        The images, and settings of a call of the processor; images as they are and no settings where one is
        no square, or the processor crops to another size than it scales to.
    """
    side = image_processor.size["shortest_edge"]
    fits = dict(image_processor.crop_size) == {"height": side, "width": side}
    scales = image_processor.do_resize or all(image.size == (side, side) for image in images)
    if not (fits and scales and all(image.width == image.height for image in images)):
        return list(images), {}
    # An image of the size is not scaled again: Pillow would copy it.
    found = [
        image if image.width == side else image.resize((side, side), image_processor.resample)
        for image in images
    ]
    return found, {"do_resize": False, "do_center_crop": False}


def shown_size(size: tuple[int, int], aspect: Literal["pad", "crop"]) -> tuple[int, int]:
    """Width and height of an image as `open_images` gives it to a processor that does not crop."""
    return (_square_side(*size),) * 2 if aspect == "pad" else size


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Centre an RGB image on a square of the mean colour (`mean` in 0..1), as LLaVA-1.5 does.

    A square of a side over 2048 and more than four times the image's pixels (twice, for the largest) is
    scaled down to 2048, without being made in full.
    """
    width, height = image.size
    if width == height:
        return image
    side, colour = max(width, height), tuple(int(value * 255) for value in mean)
    if _square_side(width, height) < side:
        return _small_square(image, colour)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def centre(image: Image.Image) -> Image.Image:
    """The middle of a long thin image, in eight lengths of its shorter side; other images as they are."""
    width, height = image.size
    longest = _CENTRE * min(width, height)
    if max(width, height) <= longest:
        return image
    # Odd with odd: the middle stays where it is.
    longest += (max(width, height) - longest) % 2
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return image.crop((left, top, width - left, height - top))


def _square_side(width: int, height: int) -> int:
    """Side of the square that an image is padded to."""
    side, own = max(width, height), width * height
    largest = min(_MOST_PADDING * own, max(MAX_PIXELS, _MOST_PADDING_LARGE * own))
    return side if side <= _SMALL or side**2 <= largest else _SMALL


def _small_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The square around an image, scaled down; the same to rounding as if the square were scaled.

    Scaling goes by one side at a time: first along the image, then across it, where only the rows near the
    image are other than the plain colour.
    """
    if image.height > image.width:
        turned = _small_square(image.transpose(Image.Transpose.TRANSPOSE), colour)
        return turned.transpose(Image.Transpose.TRANSPOSE)
    side, scale = image.width, image.width / _SMALL
    top = (side - image.height) // 2
    first = max(math.floor(top / scale) - _REACH, 0)
    last = min(math.ceil((top + image.height) / scale) + _REACH, _SMALL)
    # Rows of the full square that these rows of the small one are computed from.
    begin = max(math.floor((first - _REACH) * scale), 0)
    end = min(math.ceil((last + _REACH) * scale), side)
    rows = Image.new("RGB", (_SMALL, end - begin), colour)
    rows.paste(image.resize((_SMALL, image.height), Image.Resampling.BICUBIC), (0, top - begin))
    box = (0, first * scale - begin, _SMALL, last * scale - begin)
    band = rows.resize((_SMALL, last - first), Image.Resampling.BICUBIC, box=box)
    square = Image.new("RGB", (_SMALL, _SMALL), colour)
    square.paste(band, (0, first))
    return square
