"""SMoLoRA: the method and its router."""

from lit_cvit.methods.smolora.method import SMoLoRA

__all__ = ["SMoLoRA"]
