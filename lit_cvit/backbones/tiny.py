"""The embedded default: a real LLaVA in miniature whose weights ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.llava import Llava
from lit_cvit.utils import hub

VERSION = 1
"""Of the shipped weights."""
WEIGHTS = Path(__file__).parent / "tiny_weights"


class Tiny(Llava):
    """A LLaVA of 1.5 million parameters, pre-trained on drawn scenes; runs offline on any CPU.

    It has no system prompt, and its roles are `User:` and `Assistant:`, which its tokenizer holds as words.

    Args:
        name_or_path: `tiny` for the shipped weights, or a folder written by `pretrain`.
        max_length: Longest sequence in tokens, the image's included.
        kwargs: The other settings of a backbone.
    """

    def __init__(self, name_or_path: str = "tiny", max_length: int = 512, **kwargs: Any) -> None:
        super().__init__(name_or_path, max_length=max_length, **kwargs)
        self.version = VERSION if name_or_path == "tiny" else 0

    @property
    def chat_format(self) -> ChatFormat:
        """The format that `pretrain` taught."""
        return ChatFormat(user="User: ", assistant=" Assistant:")

    @property
    def is_here(self) -> bool:
        """Whether the shipped weights are meant, or a folder."""
        return self.name_or_path == "tiny" or super().is_here

    def locate(self) -> tuple[Path, str]:
        """The shipped folder, or the folder that the user names.

        Raises:
            ValueError: the folder does not exist or is incomplete.
        """
        if self.name_or_path != "tiny":
            return super().locate()
        if not hub.has_weights(WEIGHTS):
            raise ValueError(
                f"the weights of the tiny backbone are not in {WEIGHTS.name!r} of this installation; "
                "install the package again, or give name_or_path a folder written by `pretrain`"
            )
        return WEIGHTS, "shipped"
