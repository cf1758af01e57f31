"""Features of the images and texts of a batch, by which samples are compared with anchors or keys."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cvit.adapters.kernels import sample_means
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.framing import open_images
from lit_cvit.data.tasks import Batch
from lit_cvit.encoders import ClipImageEncoder, SentenceEncoder, text_encoder

TOWER = "tower"


class Features(NamedTuple):
    """One modality of a batch: features (S, d), and which samples have it (S,)."""

    values: Tensor
    present: Tensor


class PromptFeatures:
    """Features of the user's turns by frozen encoders, which are looked for when first used.

    Args:
        backbone: The backbone.
        image_encoder: `tower`, the mean over the backbone's own vision features, or the name or folder of a
            CLIP model.
        text_encoder: Name or folder of a sentence encoder or of a CLIP model.
    """

    def __init__(self, backbone: Backbone, image_encoder: str, text_encoder: str) -> None:
        self._backbone, self._image_encoder, self._text_encoder = backbone, image_encoder, text_encoder

    @torch.no_grad()
    def of_images(self, batch: Batch) -> Features:
        """The mean over a sample's images; in full precision, as is that of texts."""
        rows = batch.image_rows
        with torch.autocast(rows.device.type, enabled=False):
            if self._images is None:
                values = self._backbone.image_features(batch)
            else:
                aspect, mean = self._backbone.image_aspect, self._images.image_mean
                images = open_images(batch.samples, aspect=aspect, mean=mean, centred=True)
                values = self._images.encode(images, rows.device)
            means = sample_means(values.float(), None, row_to_sample=rows, num_samples=len(batch))
        return Features(means, batch.prompt_mask.new_zeros(len(batch)).index_fill(0, rows, True))

    @torch.no_grad()
    def of_texts(self, batch: Batch) -> Features:
        """Of the user's turn, instruction and question together; every sample has one."""
        present = batch.prompt_mask.new_ones(len(batch))
        with torch.autocast(present.device.type, enabled=False):
            values = self._texts.encode([sample.user_text for sample in batch.samples])
        return Features(values.to(present.device), present)

    @property
    def image_width(self) -> int:
        """Length d of an image's features."""
        if self._images is not None:
            return self._images.dimension
        none = torch.zeros(0, dtype=torch.int64)
        batch = Batch({}, answer_mask=None, prompt_mask=none.bool(), image_rows=none, samples=[])
        return self._backbone.image_features(batch).shape[1]

    @property
    def text_width(self) -> int:
        """Length d of a text's features."""
        return self._texts.dimension

    @cached_property
    def _texts(self) -> SentenceEncoder:
        return text_encoder(self._text_encoder)

    @cached_property
    def _images(self) -> ClipImageEncoder | None:
        return None if self._image_encoder == TOWER else ClipImageEncoder(self._image_encoder)
