"""LLaVA-1.5: a CLIP tower, a two-layer projector and a Llama decoder (arXiv 2310.03744)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_cvit.backbones.agreement import Facts, image_side, pair
from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.loading import torch_dtype
from lit_cvit.data.tasks import Batch

VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Llava(Backbone):
    """A LLaVA-1.5-class model, for example `llava-hf/llava-1.5-7b-hf` or a folder of the same layout.

    Conversations follow LLaVA's `vicuna_v1`: a system prompt, then `USER: <image>` and the user's text on
    the next line, `ASSISTANT:` and the answer, ended by `</s>`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    system_prompt: ClassVar[str] = VICUNA_V1

    @property
    def chat_format(self) -> ChatFormat:
        """`vicuna_v1`, with the class's system prompt if it has one."""
        return ChatFormat(system=f"{self.system_prompt} " if self.system_prompt else "")

    @property
    def num_image_tokens(self) -> int:
        """One position per patch, and one for the class token where the model keeps it."""
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return patches + int(self.config.vision_feature_select_strategy != "default")

    def agreements(self) -> Facts:
        """The image token, and the sizes of image and patch."""
        vision, processor = self.config.vision_config, self.processor
        return {
            **super().agreements(),
            "the size of an image": (pair(vision.image_size), image_side(processor.image_processor)),
            "the side of a patch": (vision.patch_size, processor.patch_size),
        }

    @torch.no_grad()
    def image_features(self, batch: Batch) -> Tensor:
        """Mean over patches of the tower's layer that the projector reads: (I, d); I may be 0."""
        pixels = self._model_inputs(batch).get("pixel_values")
        if pixels is None:
            dtype, device = torch_dtype(self.dtype), self.model.device
            return torch.zeros(0, patch_width(self.config), dtype=dtype, device=device)
        return patch_features(self.vision_tower, pixels, self.config).mean(dim=1)


def patch_width(config: Any) -> int:
    """Width of the patch features that a LLaVA's projector reads."""
    layers = config.vision_feature_layer
    return int(config.vision_config.hidden_size) * (1 if isinstance(layers, int) else len(layers))


def patch_features(tower: nn.Module, pixels: Tensor, config: Any) -> Tensor:
    """Features of each patch as a LLaVA's projector reads them: (N, patches, d).

    Args:
        tower: The image encoder.
        pixels: (N, 3, height, width).
        config: The model's config, which says what layers, and whether the class token is dropped.
    """
    chosen = config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    states = tower(pixels, output_hidden_states=True).hidden_states
    features = torch.cat([states[layer] for layer in layers], dim=-1)
    return features[:, 1 if config.vision_feature_select_strategy == "default" else 0 :]
