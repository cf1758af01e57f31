"""The model that scripts share where matrix products are to dominate."""

from __future__ import annotations

import math
from pathlib import Path

from lit_cvit.backbones.build import build_llava_folder


def wide_llava(
    folder: Path, width: int, layers: int, image_positions: int = 576, tower: tuple[int, int] | None = None
) -> Path:
    """A LLaVA of random weights.

    Args:
        folder: Where to write it.
        width: Width of the decoder.
        layers: Its layers.
        image_positions: Positions of an image, a square number; LLaVA-1.5 has 576.
        tower: Width and layers of the tower, if they are not the decoder's.
    """
    side = math.isqrt(image_positions)
    if side * side != image_positions:
        raise ValueError(f"image_positions must be a square number, got {image_positions}")
    return build_llava_folder(
        folder,
        hidden_size=width,
        num_layers=layers,
        image_size=14 * side,
        patch_size=14,
        max_length=image_positions + 448,
        tower=tower,
    )
