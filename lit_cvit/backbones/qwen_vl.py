"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: images in their own resolution (arXiv 2409.12191, 2502.13923, 2511.21631).

The projector is the merger at the end of the tower, which joins 2 x 2 patches. It sees the patches of all
images of a batch in one flat list. The further mergers of Qwen3-VL, which feed early decoder layers, stay as
they are: like the rest of the tower they are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lit_cvit.backbones.agreement import Facts
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.dynamic import DynamicBackbone
from lit_cvit.data.tasks import Batch

# Sides of an image may be 1 to 200; the image processor refuses others.
_LONGEST_STRIP = 200


@dataclass(frozen=True)
class MergedPatches:
    """Decoder positions of an image: its patches, joined by the merger.

    Attributes:
        image_processor: The model's, which decides the resolution.
    """

    image_processor: Any

    def __call__(self, width: int, height: int) -> int:
        """Decoder positions of an image of a size in pixels."""
        patches: int = self.image_processor.get_number_of_image_patches(height, width)
        return patches // self.image_processor.merge_size**2

    @property
    def most(self) -> int:
        """No image takes more: the largest resolution, or a strip as long as the image processor takes."""
        side = self.image_processor.patch_size * self.image_processor.merge_size
        return max(self.image_processor.size["longest_edge"] // side**2, _LONGEST_STRIP)

    @property
    def any_size(self) -> bool:
        """False: of strips longer than 200 times their width there is no resolution."""
        return False


class Qwen2VL(DynamicBackbone):
    """A Qwen2-VL or Qwen2.5-VL model, for example `Qwen/Qwen2.5-VL-7B-Instruct`.

    Args:
        name_or_path: Model folder, or hub name.
        max_pixels: Larger images are scaled down to so many pixels; a position of the decoder shows 28 x 28
            of them (32 x 32 in Qwen3-VL), so the default allows 1280 positions (980).
        kwargs: The other settings of a backbone.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")
    vision_path: ClassVar[str] = "model.visual"
    projector_path: ClassVar[str] = "model.visual.merger"
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")
    # Where an object stands in an answer, and its name before that.
    answer_tokens: ClassVar[tuple[str, ...]] = tuple(
        f"<|{name}_{side}|>" for name in ("object_ref", "box", "quad") for side in ("start", "end")
    )
    system_prompt: ClassVar[str] = "You are a helpful assistant."

    def __init__(self, name_or_path: str, max_pixels: int = 1280 * 28 * 28, **kwargs: Any) -> None:
        super().__init__(name_or_path, **kwargs)
        self.max_pixels = max_pixels

    @property
    def chat_format(self) -> ChatFormat:
        """ChatML with the family's system prompt, if it has one."""
        system = f"<|im_start|>system\n{self.system_prompt}<|im_end|>\n" if self.system_prompt else ""
        return ChatFormat(
            system=system,
            user="<|im_start|>user\n",
            assistant="<|im_end|>\n<|im_start|>assistant\n",
            lead="",
            end="<|im_end|>",
            image="<|vision_start|><|image_pad|><|vision_end|>",
            image_token="<|image_pad|>",
            between="\n",
        )

    @property
    def image_settings(self) -> dict[str, Any]:
        """The largest resolution."""
        return {"max_pixels": self.max_pixels}

    @property
    def num_image_tokens(self) -> MergedPatches:
        """One position for 2 x 2 patches.

        Raises:
            ValueError: `max_pixels` is less than the smallest resolution of the image processor.
        """
        smallest = self.processor.image_processor.size["shortest_edge"]
        if self.max_pixels < smallest:
            raise ValueError(
                f"backbone max_pixels must be at least {smallest}, the smallest resolution of the image "
                f"processor; got {self.max_pixels}"
            )
        return MergedPatches(self.processor.image_processor)

    def agreements(self) -> Facts:
        """The image token, and how patches are cut and joined."""
        vision, processor = self.config.vision_config, self.processor.image_processor
        return {
            **super().agreements(),
            "the side of a patch": (vision.patch_size, processor.patch_size),
            "the frames of a patch": (vision.temporal_patch_size, processor.temporal_patch_size),
            "the side of a square of joined patches": (vision.spatial_merge_size, processor.merge_size),
        }

    def rows_per_image(self, batch: Batch) -> Tensor:
        """Joined patches of each image: (I,)."""
        patches: Tensor = batch.inputs["image_grid_thw"].prod(-1)
        return patches // self.config.vision_config.spatial_merge_size**2

    def positions(self, inputs: dict[str, Tensor]) -> Tensor:
        """Time, line and column of every position: (3, S, L)."""
        found: Tensor = self.model.base_model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs.get("image_grid_thw"),
            attention_mask=inputs["attention_mask"],
        )[0]
        return found

    @property
    def feature_size(self) -> int:
        """Width of the tower before its merger."""
        # The configs of the three models name it differently.
        convolution: Any = self.vision_tower.get_submodule("patch_embed.proj")
        return int(convolution.out_channels)

    def tower_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every patch as it comes out of the tower's last block, before the merger and what adapts it."""
        inputs = self._model_inputs(batch)
        tower, merger = self.vision_tower, self.projector
        parent, _, leaf = self.projector_path.rpartition(".")
        owner = self.model.get_submodule(parent)
        setattr(owner, leaf, nn.Identity())
        try:
            states: Tensor = tower(
                inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]
            ).last_hidden_state
        finally:
            setattr(owner, leaf, merger)
        return states, inputs["image_grid_thw"].prod(-1)

    def _model_inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super()._model_inputs(batch)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == self.encoder.image_id).int()
        return inputs


class Qwen3VL(Qwen2VL):
    """A Qwen3-VL model, for example `Qwen/Qwen3-VL-8B-Instruct`.

    Args:
        name_or_path: Model folder, or hub name.
        kwargs: The other settings of `Qwen2VL`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    system_prompt: ClassVar[str] = ""
