"""Backbones: pre-trained multimodal models behind one interface."""

from lit_cvit.backbones.base import Backbone
from lit_cvit.backbones.internvl import InternVL
from lit_cvit.backbones.llava import Llava
from lit_cvit.backbones.llava_next import LlavaNext
from lit_cvit.backbones.llava_onevision import LlavaOnevision
from lit_cvit.backbones.qwen_vl import Qwen2VL, Qwen3VL
from lit_cvit.backbones.tiny import Tiny

__all__ = ["Backbone", "InternVL", "Llava", "LlavaNext", "LlavaOnevision", "Qwen2VL", "Qwen3VL", "Tiny"]
