"""LLaVA-NeXT (LLaVA-1.6): the LLaVA parts, and an image seen as a whole and in up to four tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from lit_cvit.backbones.agreement import Facts, image_side, pair
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.dynamic import DynamicBackbone
from lit_cvit.backbones.llava import VICUNA_V1, patch_features, patch_width
from lit_cvit.data.tasks import Batch

# Up to this ratio of the sides the models leave the features of many tiles as they are.
_UNTHINNED = 1.1


@dataclass(frozen=True)
class TileGrid:
    """How many tiles and decoder positions an image of a given size takes.

    The image is scaled to the best of some resolutions, padded, and cut into tiles. The positions of the
    padding are dropped, and one position is added to the end of each line of patches.

    Attributes:
        resolutions: Height and width in pixels of every canvas.
        tile: Side of a tile in pixels.
        patches: Patches along the side of a tile.
        max_tiles: Positions are thinned out to about those of so many tiles; None keeps all.
    """

    resolutions: tuple[tuple[int, int], ...]
    tile: int
    patches: int
    max_tiles: int | None = None

    def __call__(self, width: int, height: int) -> int:
        """Decoder positions, those of the whole image included."""
        rows, columns = (side * self.patches for side in self._grid(width, height))
        if width / height > columns / rows:
            rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
        if self.max_tiles is not None:
            ratio = (rows * columns / (self.max_tiles * self.patches**2)) ** 0.5
            if ratio > _UNTHINNED:
                rows, columns = int(rows // ratio), int(columns // ratio)
        return self.patches**2 + rows * (columns + 1)

    @property
    def most(self) -> int:
        """No image takes more: a canvas without padding, or what is just not thinned out."""
        found = []
        for height, width in self.resolutions:
            rows, columns = (side // self.tile * self.patches for side in (height, width))
            shown = rows * columns
            if self.max_tiles is not None:
                shown = min(shown, int(_UNTHINNED**2 * self.max_tiles * self.patches**2))
            found.append(shown + rows)
        return self.patches**2 + max(found)

    @property
    def any_size(self) -> bool:
        """True: every image is scaled into some canvas."""
        return True

    def num_tiles(self, width: int, height: int) -> int:
        """Tiles, the whole image included."""
        rows, columns = self._grid(width, height)
        return 1 + rows * columns

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        best = select_best_resolution((height, width), [list(each) for each in self.resolutions])
        return best[0] // self.tile, best[1] // self.tile


class LlavaNext(DynamicBackbone):
    """A LLaVA-NeXT model, for example `llava-hf/llava-v1.6-vicuna-7b-hf`.

    Models on Vicuna speak `vicuna_v1`, as LLaVA-1.5 does, and those on Mistral its `[INST]` format with a
    space between two turns, as the template of `llava-hf/llava-v1.6-mistral-7b-hf`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    @property
    def chat_format(self) -> ChatFormat:
        """The conversation format of the model's decoder.

        Raises:
            ValueError: the decoder is neither a Vicuna nor a Mistral, so its format is not known.
        """
        decoder = self.config.text_config.model_type
        known = self.tokenizer.get_vocab()
        found = "" if decoder in ("llama", "mistral") else f"of type {decoder!r}"
        # Yi, and Llama 3, are Llamas by type; their tokenizers tell them apart.
        if not found and "<|im_start|>" in known:
            found = "one that speaks ChatML (its tokenizer has <|im_start|>)"
        elif not found and "</s>" not in known:
            found = "one whose tokenizer lacks </s>"
        if found:
            raise ValueError(
                f"name_or_path {self.name_or_path!r}: its decoder is {found}; backbone {type(self).__name__} "
                "has the prompts of Vicuna (llama) and Mistral decoders, as in "
                "llava-hf/llava-v1.6-vicuna-7b-hf and llava-hf/llava-v1.6-mistral-7b-hf"
            )
        if decoder == "mistral":
            return ChatFormat(user="[INST] ", assistant=" [/INST]", between=" ")
        return ChatFormat(system=f"{VICUNA_V1} ")

    @property
    def num_image_tokens(self) -> TileGrid:
        """Positions of the whole image, of its tiles without their padding, and of the lines' ends."""
        vision = self.config.vision_config
        return TileGrid(
            resolutions=tuple((height, width) for height, width in self.config.image_grid_pinpoints),
            tile=vision.image_size,
            patches=vision.image_size // vision.patch_size,
        )

    def agreements(self) -> Facts:
        """The image token, the size of a tile, and the resolutions."""
        processor = self.processor.image_processor
        resolutions = [
            [list(each) for each in owner.image_grid_pinpoints] for owner in (self.config, processor)
        ]
        return {
            **super().agreements(),
            "the size of a tile": (pair(self.config.vision_config.image_size), image_side(processor)),
            "image_grid_pinpoints": (resolutions[0], resolutions[1]),
        }

    def rows_per_image(self, batch: Batch) -> Tensor:
        """Tiles of each image: (I,)."""
        sizes = batch.inputs["image_sizes"]
        grid = self.num_image_tokens
        tiles = [grid.num_tiles(width, height) for height, width in sizes.tolist()]
        return torch.tensor(tiles, device=sizes.device)

    @property
    def feature_size(self) -> int:
        """Width of what the projector reads."""
        return patch_width(self.config)

    def tower_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean over the patches of each tile, of the layer that the projector reads."""
        counts = self.rows_per_image(batch)
        stacked = self._model_inputs(batch)["pixel_values"]
        # Images of fewer tiles are padded with empty ones.
        pixels = torch.cat([image[:count] for image, count in zip(stacked, counts.tolist(), strict=True)])
        return patch_features(self.vision_tower, pixels, self.config).mean(dim=1), counts
