"""The files of a backbone: everything about a model that is known without its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import transformers

from lit_cvit.backbones import agreement, loading
from lit_cvit.backbones.agreement import Facts
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.encode import SampleEncoder
from lit_cvit.backbones.image_tokens import ImageTokens
from lit_cvit.utils import hub
from lit_cvit.utils.recorded import RecordedSettings


class ModelFiles(RecordedSettings, ABC):
    """Config, tokenizer and image processor of a model folder; the settings are those of `Backbone`."""

    model_types: ClassVar[tuple[str, ...]] = ()
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    answer_tokens: ClassVar[tuple[str, ...]] = ()

    name_or_path: str
    quantization: Literal["none", "nf4", "int8"]
    dtype: Literal["float32", "bfloat16", "float16"]
    trust_remote_code: bool
    image_aspect: Literal["pad", "crop"]
    max_length: int
    # Positions before every text whose embeddings a method fills, see `reserve`.
    reserved: int = 0

    # -- what a family says ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def chat_format(self) -> ChatFormat:
        """The family's conversation format."""

    @property
    @abstractmethod
    def num_image_tokens(self) -> int | ImageTokens:
        """Decoder positions that one image takes, or how its size decides them; needs no weights."""

    def agreements(self) -> Facts:
        """What config, tokenizer and image processor must agree on; a family adds its sizes."""
        return agreement.image_token(self.config, self.tokenizer, self.chat_format.image_token)

    # -- the files ------------------------------------------------------------------------------------------

    def locate(self) -> tuple[Path, str]:
        """The folder of the model's files and where it comes from (see `loading.locate`).

        Raises:
            ValueError: the folder holds a model of another family, is broken, or there is none.
        """
        folder, source = loading.locate(self.name_or_path)
        kind, found = type(self), loading.model_type(folder)
        if found not in self.model_types:
            families = agreement.families("model_types", ModelFiles.__subclasses__())
            raise agreement.other_family(self.name_or_path, kind, found, families)
        return folder, source

    @property
    def is_here(self) -> bool:
        """Whether there is a folder of the model on this machine, so that nothing has to be downloaded."""
        return loading.is_here(self.name_or_path)

    @cached_property
    def config(self) -> Any:
        """The model's transformers config; needs no weights.

        Raises:
            ValueError: the folder holds a model of another family, or there is no such folder.
        """
        return loading.load_config(self.locate()[0], trust_remote_code=self.trust_remote_code)

    @cached_property
    def processor(self) -> Any:
        """The model's transformers processor; needs no weights."""
        return loading.load_processor(self.locate()[0], trust_remote_code=self.trust_remote_code)

    @cached_property
    def encoder(self) -> SampleEncoder:
        """Turns samples into batches; picklable, for data-loader workers; needs no weights.

        Raises:
            ValueError: the parts of the folder do not belong together, or one is broken.
        """
        agreement.require(self.name_or_path, self.config, self.tokenizer, self.agreements())
        return SampleEncoder(
            tokenizer=self.tokenizer,
            image_processor=self.processor.image_processor,
            chat=self.chat_format,
            num_image_tokens=self.num_image_tokens,
            image_aspect=self.image_aspect,
            max_length=self.max_length,
            image_inputs=self.image_inputs,
            answer_tokens=self.answer_tokens,
            reserved=self.reserved,
        )

    def reserve(self, positions: int) -> None:
        """Begin every sequence with so many positions, which count as its first; a method fills them.

        They hold the padding token, are attended to, and are part of no prompt mask.
        """
        self.reserved = positions
        # A cached one has none.
        self.__dict__.pop("encoder", None)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; needs no weights."""
        return self.processor.tokenizer

    @property
    def hidden_size(self) -> int:
        """Width of the decoder; needs no weights."""
        return self.config.get_text_config().hidden_size

    def describe(self) -> dict[str, str]:
        """What the run record says about the backbone; needs no weights in memory."""
        folder, source = self.locate()
        return {
            "class": type(self).__name__,
            "name_or_path": self.name_or_path,
            "source": source,
            "digest": hub.digest(folder),
            "quantization": self.quantization,
            "dtype": self.dtype,
            "transformers": transformers.__version__,
        }
