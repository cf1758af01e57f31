"""Model Tailor: each stage leaves a sparse patch of its change, made up for what it drops."""

from lit_cvit.methods.model_tailor.method import ModelTailor
from lit_cvit.methods.model_tailor.tailor import num_kept, tailored

__all__ = ["ModelTailor", "num_kept", "tailored"]
