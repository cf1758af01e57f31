"""How many decoder positions an image takes, and images of a size that an image processor refuses."""

from __future__ import annotations

from typing import Protocol

from lit_cvit.data.tasks import Sample, SampleError


class ImageTokens(Protocol):
    """How the size of an image decides its decoder positions; picklable, for loader workers.

    Its `repr` says everything that the numbers depend on, as that of a dataclass of plain values does.
    """

    def __call__(self, width: int, height: int) -> int:
        """Decoder positions of an image of a width and height in pixels."""
        ...

    @property
    def most(self) -> int:
        """No image takes more."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether the image processor takes images of every size; otherwise a call may raise a ValueError."""
        ...


def positions(number: ImageTokens, sample: Sample, size: tuple[int, int]) -> int:
    """Decoder positions of a sample's image.

    Args:
        number: The family's rule.
        sample: The sample, for the message.
        size: Width and height in pixels as the image processor is to see them.

    Raises:
        SampleError: the image processor does not take that size.
    """
    try:
        return number(*size)
    except ValueError as error:
        what = f"has an image of {size[0]} x {size[1]} pixels, which the image processor does not take: "
        fix = "crop the image, leave the record out, or set model.backbone.image_aspect to pad"
        raise SampleError.of(sample, "image size", f"{what}{error}; {fix}") from error
