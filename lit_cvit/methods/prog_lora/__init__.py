"""ProgLoRA: the method and its key gate."""

from lit_cvit.methods.prog_lora.base import ProgLoRA

__all__ = ["ProgLoRA"]
