"""InternVL: up to a dozen tiles of one size and a thumbnail, joined by a pixel shuffle (arXiv 2504.10479)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lit_cvit.backbones.agreement import Facts, image_side, pair
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.dynamic import DynamicBackbone
from lit_cvit.data.tasks import Batch


@dataclass(frozen=True)
class Tiles:
    """Decoder positions of an image: as many for each tile.

    Attributes:
        image_processor: The model's, which decides the number of tiles.
        per_tile: Decoder positions of a tile.
    """

    image_processor: Any
    per_tile: int

    def __call__(self, width: int, height: int) -> int:
        """Decoder positions of an image of a size in pixels."""
        tiles: int = self.image_processor.get_number_of_image_patches(height, width)
        return tiles * self.per_tile

    @property
    def most(self) -> int:
        """No image takes more: all tiles and the thumbnail."""
        tiles: int = self.image_processor.max_patches
        return (tiles + 1) * self.per_tile

    @property
    def any_size(self) -> bool:
        """True: every image is scaled to some tiles."""
        return True


class InternVL(DynamicBackbone):
    """An InternVL model in transformers' own format, for example `OpenGVLab/InternVL3-8B-hf`.

    Args:
        name_or_path: Model folder, or hub name.
        max_tiles: Most tiles of an image; with more than one tile a thumbnail of the whole is added.
        kwargs: The other settings of a backbone.
    """

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    # An object's name and its box.
    answer_tokens: ClassVar[tuple[str, ...]] = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")

    def __init__(self, name_or_path: str, max_tiles: int = 6, **kwargs: Any) -> None:
        super().__init__(name_or_path, **kwargs)
        self.max_tiles = max_tiles

    @property
    def chat_format(self) -> ChatFormat:
        """ChatML without a system prompt, as the model's own template."""
        return ChatFormat(
            user="<|im_start|>user\n",
            assistant="<|im_end|>\n<|im_start|>assistant\n",
            lead="",
            end="<|im_end|>",
            image="<img><IMG_CONTEXT></img>\n",
            image_token="<IMG_CONTEXT>",
            between="\n",
        )

    @property
    def image_settings(self) -> dict[str, Any]:
        """Tiles, and how many."""
        return {"crop_to_patches": True, "max_patches": self.max_tiles}

    @property
    def num_image_tokens(self) -> Tiles:
        """Positions of all tiles; the pixel shuffle joins 2 x 2 patches."""
        return Tiles(self.processor.image_processor, self._per_tile)

    @property
    def _per_tile(self) -> int:
        vision = self.config.vision_config
        patches = [size // patch for size, patch in zip(vision.image_size, vision.patch_size, strict=True)]
        return int(patches[0] * patches[1] * self.config.downsample_ratio**2)

    def agreements(self) -> Facts:
        """The image token, and the size of a tile."""
        size = pair(self.config.vision_config.image_size)
        return {
            **super().agreements(),
            "the size of a tile": (size, image_side(self.processor.image_processor)),
        }

    def rows_per_image(self, batch: Batch) -> Tensor:
        """Tiles of each image: (I,)."""
        shown = (batch.inputs["input_ids"] == self.encoder.image_id).sum(dim=1)
        return shown[batch.image_rows] // self._per_tile

    def tower_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean over the patches of each tile, of the layer that the projector reads."""
        pixels = self._model_inputs(batch)["pixel_values"]
        output = self.vision_tower(pixels, output_hidden_states=True)
        layer = self.config.vision_feature_layer
        # The last layer is read after the tower's final norm.
        states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        drops_class_token = self.config.vision_feature_select_strategy == "default"
        return states[:, 1 if drops_class_token else 0 :].mean(dim=1), self.rows_per_image(batch)

    @property
    def feature_size(self) -> int:
        """Width of the tower."""
        return int(self.config.vision_config.hidden_size)
