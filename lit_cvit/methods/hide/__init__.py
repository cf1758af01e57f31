"""HiDe-LLaVA: the method, its anchors, and which layers expand."""

from lit_cvit.methods.hide.method import HiDe

__all__ = ["HiDe"]
