"""ProgLoRA: its two forms, and the gate by keys."""

from lit_cvit.methods.prog_lora.dynamic import ProgLoRADynamic
from lit_cvit.methods.prog_lora.static import ProgLoRAStatic

__all__ = ["ProgLoRADynamic", "ProgLoRAStatic"]
