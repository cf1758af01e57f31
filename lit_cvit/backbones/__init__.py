"""Backbones: pre-trained multimodal models behind one interface."""

from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.llava import Llava
from lit_cvit.backbones.tiny import Tiny

__all__ = ["Backbone", "Llava", "Tiny"]
