"""From samples to batches. Needs tokenizer and image processor but no model, so loader workers can do it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from lit_cvit.backbones.answer_context import answer_context, counting_digest
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.data.images import FileImage
from lit_cvit.data.tasks import Batch, ImageSource, Sample, SampleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# What a tokenizer adds at both ends of a text, and to spare.
_ADDED_TOKENS = 8


class ImageTokens(Protocol):
    """How the size of an image decides its decoder positions; picklable, for loader workers."""

    def __call__(self, width: int, height: int) -> int:
        """Decoder positions of an image of a width and height in pixels."""
        ...

    @property
    def most(self) -> int:
        """No image takes more."""
        ...


class _Row(NamedTuple):
    ids: list[int]
    in_answer: list[bool]


class SampleEncoder:
    """Turns samples into batches; a small picklable value that holds no weights.

    Args:
        tokenizer: A fast tokenizer; its beginning-of-sequence token is added where it has one.
        image_processor: Turns a list of RGB images into tensors.
        chat: The conversation format.
        num_image_tokens: Positions that one image takes in the decoder: a number, or a function of its size.
        image_aspect: `pad` to a square with the processor's mean colour, or `crop` as the processor does.
        max_length: Longest sequence, in tokens with the image's.
        image_inputs: Which of the image processor's tensors the model takes.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        chat: ChatFormat,
        num_image_tokens: int | ImageTokens,
        image_aspect: Literal["pad", "crop"],
        max_length: int,
        image_inputs: Sequence[str] = ("pixel_values",),
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.chat = chat
        self.num_image_tokens = num_image_tokens
        self._most_in_image = num_image_tokens if isinstance(num_image_tokens, int) else num_image_tokens.most
        self.image_aspect = image_aspect
        self.max_length = max_length
        self.image_inputs = tuple(image_inputs)
        self.end_id = self._token_id(chat.end)
        self.image_id = self._token_id(chat.image_token)
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        tokens = {chat.end, chat.image_token, *tokenizer.all_special_tokens, *special}
        self._special = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

    def prompt(self, sample: Sample) -> str:
        """The generation prompt: earlier turns with their answers, then the open last turn."""
        return self.chat.render(_turns(sample, None), has_image=sample.image is not None)[0]

    def prompt_length(self, sample: Sample) -> int:
        """Tokens of the generation prompt, the image's included.

        The image is opened only where its size decides how many tokens it takes.
        """
        number = self.num_image_tokens
        if not isinstance(number, int):
            number = sum(self._image_tokens([sample], self._images([sample])))
        return len(self._row(sample, number, with_answers=False).ids)

    def check(self, sample: Sample, *, with_answers: bool) -> None:
        """Refuse a sample that `encode` would refuse, before it does.

        Only what may be too long by its bytes is tokenised, and of a file the header is read where the
        image's size decides.

        Args:
            sample: The sample.
            with_answers: True for one to train on, False for one to generate from.

        Raises:
            SampleError: it is longer than `max_length`, or has an answer that cannot be learned.
            ValueError: its image decides how long it is, and is unreadable.
        """
        text, _ = self._rendered(sample, with_answers=with_answers)
        in_image = 0 if sample.image is None else self._most_in_image
        if _most_tokens(text) + in_image <= self.max_length:
            return
        number = self.num_image_tokens
        if sample.image is not None and not isinstance(number, int):
            in_image = _sized(number, sample, self._size(sample.image))
        self._row(sample, in_image, with_answers=with_answers)

    def num_answer_tokens(self, sample: Sample) -> int:
        """Tokens that the loss counts in a training batch: all answers and their ends; opens no image."""
        number = self.num_image_tokens
        return sum(self._row(sample, number if isinstance(number, int) else 1, with_answers=True).in_answer)

    def answer_tokens(self, samples: Sequence[Sample]) -> list[int]:
        """`num_answer_tokens` of each sample.

        Where the tokenizer allows it, prompts are not tokenised, and equal answers once. A sample that is
        too long is not refused here then.

        Raises:
            SampleError: a sample has an answer that cannot be learned; names it.
        """
        context = self._answer_context
        if context is None:
            return [self.num_answer_tokens(sample) for sample in samples]
        answers = [self._answers(sample) for sample in samples]
        different = list(dict.fromkeys(answer for each in answers for answer in each))
        counts = dict(zip(different, self._counted_behind(context, different), strict=True))
        return [sum(counts[answer] for answer in each) for each in answers]

    @property
    def answers_vary(self) -> bool:
        """Whether an answer's tokens may depend on the text before it, so on an epoch's instruction."""
        return self._answer_context is None

    def answers_digest(self) -> str:
        """A digest of all beside a sample that decides its answer tokens."""
        return self._answers_digest

    @cached_property
    def _answer_context(self) -> str | None:
        return answer_context(self.tokenizer, self.chat)

    @cached_property
    def _answers_digest(self) -> str:
        return counting_digest(self.tokenizer, self.chat, self.max_length)

    def _counted_behind(self, context: str, answers: Sequence[str]) -> list[int]:
        texts = [context + self.chat.lead + answer + self.chat.end for answer in answers]
        # The tokenizer proper: half of the time would go into lists of what is not asked for.
        tokenizer: Any = self.tokenizer.backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [sum(end > len(context) for _, end in each.offsets) for each in encoded]

    def encode(self, samples: Sequence[Sample], *, with_answers: bool, indices: Sequence[int] = ()) -> Batch:
        """Tokenise and pad samples and prepare their images.

        With answers the rows are padded on the right and `answer_mask` marks every answer and its end
        token, those of earlier turns too. Without, the last turn is open, rows are padded on the left and
        `answer_mask` is None. In both, `prompt_mask` leaves out padding and all answers.

        Args:
            samples: At least one sample.
            with_answers: True to train, False to generate.
            indices: Position of each sample in its split; none means unknown (-1).

        Raises:
            SampleError: a sample is longer than `max_length`, or has no answer that can be learned; names it.
            ValueError: its image is unreadable.
        """
        if not samples:
            raise ValueError("encode needs at least one sample, got none")
        if indices and len(indices) != len(samples):
            raise ValueError(f"encode got {len(samples)} samples but {len(indices)} indices")
        image_rows = [number for number, sample in enumerate(samples) if sample.image is not None]
        images = self._images(samples)
        tokens = dict(zip(image_rows, self._image_tokens(samples, images), strict=True))
        rows = [
            self._row(sample, tokens.get(number, 0), with_answers=with_answers)
            for number, sample in enumerate(samples)
        ]
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids = torch.full(shape, self.pad_id, dtype=torch.int64)
        attention = torch.zeros(shape, dtype=torch.int64)
        in_answer = torch.zeros(shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            start = 0 if with_answers else shape[1] - len(row.ids)
            columns = slice(start, start + len(row.ids))
            ids[number, columns] = torch.tensor(row.ids)
            attention[number, columns] = 1
            in_answer[number, columns] = torch.tensor(row.in_answer)
        inputs = {"input_ids": ids, "attention_mask": attention}
        if images:
            tensors = self.image_processor(images=images, return_tensors="pt")
            inputs |= {name: tensors[name] for name in self.image_inputs}
        return Batch(
            inputs=inputs,
            answer_mask=in_answer if with_answers else None,
            prompt_mask=attention.bool() & ~in_answer,
            image_rows=torch.tensor(image_rows, dtype=torch.int64),
            samples=list(samples),
            indices=list(indices) or [-1] * len(samples),
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of generated tokens (S, L), without special tokens and outer white space."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def _row(self, sample: Sample, image_tokens: int, *, with_answers: bool) -> _Row:
        text, spans = self._rendered(sample, with_answers=with_answers)
        tokens = self.tokenizer(text, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        row = _Row([], [])
        first = spans[0][0] if spans else len(text)
        for token, (start, end) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True):
            copies = image_tokens if token == self.image_id else 1
            row.ids.extend([token] * copies)
            inside = end > first and any(start < stop and end > begin for begin, stop in spans)
            row.in_answer.extend([inside] * copies)
        if len(row.ids) > self.max_length:
            fix = "shorten the record or leave it out, or raise model.backbone.max_length"
            limit = f"more than the backbone's max_length {self.max_length}"
            raise SampleError.of(sample, "too long", f"has {len(row.ids)} tokens, {limit}; {fix}")
        return row

    def _rendered(self, sample: Sample, *, with_answers: bool) -> tuple[str, list[tuple[int, int]]]:
        turns = _turns(sample, self._target(sample) if with_answers else None)
        return self.chat.render(turns, has_image=sample.image is not None)

    def _target(self, sample: Sample) -> str:
        return self._answers(sample)[-1]

    def _answers(self, sample: Sample) -> list[str]:
        """What the loss counts of a sample: the answers of its turns."""
        answers = [answer for _, answer in sample.history] + list(sample.answers[:1])
        if not sample.answers or not all(answers):
            raise SampleError.of(sample, "empty answer", "has an empty answer to train on")
        for answer in answers:
            if found := self._special.search(answer):
                # The model would learn to stop there, or to say what is no text.
                words = f"has {found[0]!r} in an answer, a special token of the backbone; remove it"
                raise SampleError.of(sample, "special token in an answer", words)
        return answers

    def _images(self, samples: Sequence[Sample]) -> list[Image.Image]:
        return open_images(samples, aspect=self.image_aspect, mean=self.image_processor.image_mean)

    def _image_tokens(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[int]:
        number = self.num_image_tokens
        if isinstance(number, int):
            return [number] * len(images)
        shown = [sample for sample in samples if sample.image is not None]
        return [_sized(number, sample, image.size) for sample, image in zip(shown, images, strict=True)]

    def _size(self, image: ImageSource) -> tuple[int, int]:
        width, height = image.size() if isinstance(image, FileImage) else image.open().size
        return (max(width, height),) * 2 if self.image_aspect == "pad" else (width, height)

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer has no single token {token!r}, which this backbone's format needs"
            )
        return ids[0]


def open_images(
    samples: Sequence[Sample], *, aspect: Literal["pad", "crop"], mean: Sequence[float]
) -> list[Image.Image]:
    """The RGB images of the samples that have one, in order, as an image processor is to see them.

    Args:
        samples: The samples.
        aspect: `pad` to a square, or `crop`, which the processor does.
        mean: The processor's mean colour, which pads.

    Raises:
        ValueError: the aspect is unknown, or an image is missing or unreadable; names it.
    """
    if aspect not in ("pad", "crop"):
        raise ValueError(f"image_aspect must be 'pad' or 'crop', got {aspect!r}")
    images = [sample.image.open() for sample in samples if sample.image is not None]
    return [pad_to_square(image, mean) for image in images] if aspect == "pad" else images


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Centre an RGB image on a square of the mean colour (`mean` in 0..1), as LLaVA-1.5 does."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _sized(number: ImageTokens, sample: Sample, size: tuple[int, int]) -> int:
    try:
        return number(*size)
    except ValueError as error:
        words = f"has an image of {size[0]} x {size[1]} pixels, which the image processor does not take: "
        raise SampleError.of(sample, "image size", f"{words}{error}") from error


def _most_tokens(text: str) -> int:
    """At least as many tokens as a text has: each is a byte or more of it, as the tokenizer normalises it."""
    if text.isascii():
        return len(text) + _ADDED_TOKENS
    forms = (text, unicodedata.normalize("NFC", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms) + _ADDED_TOKENS


def _turns(sample: Sample, answer: str | None) -> list[tuple[str, str | None]]:
    return [*sample.history, (sample.user_text, answer)]
