"""What families of dynamic resolution share: the size of an image decides how many positions it takes."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.image_tokens import ImageTokens
from lit_cvit.backbones.loading import Processor, load_image_processor_and_tokenizer, torch_dtype
from lit_cvit.data.tasks import Batch


class DynamicBackbone(Backbone):
    """A family that cuts an image into tiles or patches, the more the larger it is.

    Args:
        name_or_path: Model folder, or hub name.
        image_aspect: `crop` gives images as they are, as these families are trained; `pad` makes squares.
        max_length: Longest sequence in tokens, the image's included; a longer sample is an error.
        kwargs: The other settings of a backbone.
    """

    def __init__(
        self,
        name_or_path: str,
        image_aspect: Literal["pad", "crop"] = "crop",
        max_length: int = 4096,
        **kwargs: Any,
    ) -> None:
        super().__init__(name_or_path, image_aspect=image_aspect, max_length=max_length, **kwargs)

    @property
    @abstractmethod
    def num_image_tokens(self) -> ImageTokens:
        """Decoder positions of an image of a width and height in pixels; needs no weights."""

    @abstractmethod
    def rows_per_image(self, batch: Batch) -> Tensor:
        """Rows of each image that the projector sees: (I,)."""

    @abstractmethod
    def tower_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (R, d) of the frozen tower for a batch with images, and how many each image has: (I,)."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Width d of the frozen tower's features; the model is loaded."""

    @property
    def image_settings(self) -> dict[str, Any]:
        """Settings of the image processor that replace the folder's."""
        return {}

    @cached_property
    def processor(self) -> Processor:
        """The model's image processor and tokenizer; needs no weights."""
        folder = self.locate()[0]
        return load_image_processor_and_tokenizer(
            folder, trust_remote_code=self.trust_remote_code, **self.image_settings
        )

    def row_maps(self, batch: Batch) -> dict[str, Tensor]:
        """The sample of each row of the projector: every image has as many as it has tiles or patches."""
        rows = batch.image_rows
        return {"projector": rows.repeat_interleave(self.rows_per_image(batch)) if len(rows) else rows}

    @torch.no_grad()
    def image_features(self, batch: Batch) -> Tensor:
        """Mean over all tiles and patches of each image: (I, d); I may be 0."""
        if not len(batch.image_rows):
            dtype, device = torch_dtype(self.dtype), self.model.device
            return torch.zeros(0, self.feature_size, dtype=dtype, device=device)
        features, counts = self.tower_features(batch)
        parts = features.split(counts.tolist())
        return torch.stack([part.mean(dim=0) for part in parts])
