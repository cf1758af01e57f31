"""LLaVA-OneVision: the tiles of LLaVA-NeXT with a SigLIP tower and a Qwen2 decoder (arXiv 2408.03326)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar, Literal

from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.llava_next import LlavaNext, TileGrid


class LlavaOnevision(LlavaNext):
    """A LLaVA-OneVision model, for example `llava-hf/llava-onevision-qwen2-7b-ov-hf`; one image a sample.

    Args:
        name_or_path: Model folder, or hub name.
        image_aspect: `crop` gives images as they are, as these families are trained; `pad` makes squares.
        max_length: Longest sequence in tokens; one image takes up to 8765.
        kwargs: The other settings of a backbone.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)

    def __init__(
        self,
        name_or_path: str,
        image_aspect: Literal["pad", "crop"] = "crop",
        max_length: int = 10240,
        **kwargs: Any,
    ) -> None:
        super().__init__(name_or_path, image_aspect=image_aspect, max_length=max_length, **kwargs)

    @property
    def chat_format(self) -> ChatFormat:
        """ChatML without a system prompt, as the model's own template."""
        return ChatFormat(
            user="<|im_start|>user\n",
            assistant="<|im_end|>\n<|im_start|>assistant\n",
            lead="",
            end="<|im_end|>",
            between="\n",
        )

    @property
    def num_image_tokens(self) -> TileGrid:
        """As in LLaVA-NeXT, and thinned out where there are many tiles."""
        largest = re.fullmatch(r"anyres_max_(\d+)", self.config.vision_aspect_ratio)
        if largest is None:
            raise ValueError(
                f"name_or_path {self.name_or_path!r}: its config's vision_aspect_ratio must be anyres_max_N, "
                f"got {self.config.vision_aspect_ratio!r}"
            )
        return replace(super().num_image_tokens, max_tiles=int(largest[1]))
