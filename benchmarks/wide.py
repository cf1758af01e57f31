"""The model that scripts share where matrix products are to dominate."""

from __future__ import annotations

from pathlib import Path

from lit_cvit.backbones.build import build_llava_folder


def wide_llava(folder: Path, width: int, layers: int) -> Path:
    """A LLaVA of random weights with 576 positions an image, as LLaVA-1.5 has."""
    return build_llava_folder(
        folder, hidden_size=width, num_layers=layers, image_size=336, patch_size=14, max_length=1024
    )
