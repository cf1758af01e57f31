"""From samples to batches. Needs tokenizer and image processor but no model, so loader workers can do it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lit_cvit.backbones.answer_context import answer_context
from lit_cvit.backbones.chat import ChatFormat
from lit_cvit.backbones.framing import keeps_the_centre, open_images, scaled, shown_size
from lit_cvit.backbones.image_tokens import ImageTokens, positions
from lit_cvit.backbones.segments import Tokens, count_behind, tokenise, tokenise_answered
from lit_cvit.data.tasks import Batch, Sample, SampleError, SizedImage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ENCODING_VERSION = 2
"""Raised with every change of this module after which a sample has another number of tokens."""

# Texts that are tokenised at once: enough to spread the cost of a call, and little memory.
_CHUNK = 1000
# What a tokenizer adds at both ends of a text, and to spare.
_ADDED_TOKENS = 8


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
        answer_tokens: Special tokens that an answer may have, as far as the tokenizer has them.
        reserved: Positions before every text, after padding on the left, whose embeddings a method fills.
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
        answer_tokens: Sequence[str] = (),
        reserved: int = 0,
    ) -> None:
        self.reserved = reserved
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.chat = chat
        self.num_image_tokens = num_image_tokens
        number = num_image_tokens
        self._most_in_image = number if isinstance(number, int) else number.most
        self._any_size = isinstance(number, int) or number.any_size
        self.image_aspect = image_aspect
        self.max_length = max_length
        self.image_inputs = tuple(image_inputs)
        self.end_id = self._token_id(chat.end)
        self.image_id = self._token_id(chat.image_token)
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        special = {
            str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        # What is no part of an answer, neither to learn nor to read.
        self._unread = {number for token, number in special.items() if token not in answer_tokens}
        self._reads_special = len(self._unread) < len(special)
        tokens = {chat.end, chat.image_token, *({*tokenizer.all_special_tokens, *special} - {*answer_tokens})}
        self._special = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

    def prompt(self, sample: Sample) -> str:
        """The generation prompt: earlier turns with their answers, then the open last turn."""
        return self.chat.render(_turns(sample, None), has_image=sample.image is not None)[0]

    def prompt_length(self, sample: Sample) -> int:
        """Tokens of the generation prompt, the image's included; see `prompt_lengths`."""
        return self.prompt_lengths([sample])[0]

    def prompt_lengths(self, samples: Iterable[Sample]) -> list[int]:
        """Tokens of every generation prompt, the image's included.

        An image is opened only where its size decides how many tokens it takes, and only once; of a file the
        header is read.

        Raises:
            SampleError: a sample is longer than `max_length`; names it.
            ValueError: an image decides how long a sample is, and is unreadable.
        """
        lengths: list[int] = []
        measured: dict[SizedImage, int] = {}
        remaining = iter(samples)
        while chunk := list(islice(remaining, _CHUNK)):
            tokens = self.tokenizer(
                [self.prompt(sample) for sample in chunk],
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            for sample, whole in zip(chunk, tokens["input_ids"], strict=True):
                more = self._in_image(sample, measured) - 1
                ids = self._prompt_ids(sample) if sample.history else whole
                length = self.reserved + len(ids) + more * ids.count(self.image_id)
                self._require_fit(sample, length)
                lengths.append(length)
        return lengths

    def _prompt_ids(self, sample: Sample) -> list[int]:
        text, spans = self._rendered(sample, with_answers=False)
        return self._tokens(text, [start for start, _ in spans], with_answers=False).ids

    def digest(self) -> str:
        """SHA-256 of everything that decides how many tokens a sample has, equal in every process."""
        return self._digest

    def check(self, sample: Sample, *, with_answers: bool) -> None:
        """Refuse a sample that `encode` would refuse, before it does.

        Only what may be too long by its bytes is tokenised, and of a file the header is read where the
        image's size decides. An image whose source cannot say its size is not opened to see whether it fits.

        Args:
            sample: The sample.
            with_answers: True for one to train on, False for one to generate from.

        Raises:
            SampleError: it is longer than `max_length`, has an answer that cannot be learned, or an image of
                a size that the image processor does not take.
            ValueError: its image decides how long it is, and is unreadable.
        """
        if not self._any_size and isinstance(sample.image, SizedImage):
            self._in_image(sample, {})
        text, _ = self._rendered(sample, with_answers=with_answers)
        in_image = 0 if sample.image is None else self._most_in_image
        if self.reserved + _most_tokens(text) + in_image <= self.max_length:
            return
        self._row(sample, self._in_image(sample, {}), with_answers=with_answers)

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

    @cached_property
    def _answer_context(self) -> str | None:
        return answer_context(self.tokenizer, self.chat)

    @cached_property
    def _context_ids(self) -> list[int]:
        context = self._answer_context
        return [] if context is None else self.tokenizer.encode(context, add_special_tokens=False)

    def _counted_behind(self, context: str, answers: Sequence[str]) -> list[int]:
        learned = [self.chat.lead + answer + self.chat.end for answer in answers]
        return count_behind(self.tokenizer, context, learned)

    def encode(self, samples: Sequence[Sample], *, with_answers: bool, indices: Sequence[int] = ()) -> Batch:
        """Tokenise and pad samples and prepare their images.

        With answers the rows are padded on the right and `answer_mask` marks every answer and its end
        token, those of earlier turns too. Without, the last turn is open, rows are padded on the left and
        `answer_mask` is None. In both, `prompt_mask` leaves out padding, answers and what is reserved.

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
        in_answer, reserved = torch.zeros(2, *shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            start = 0 if with_answers else shape[1] - len(row.ids)
            columns = slice(start, start + len(row.ids))
            ids[number, columns] = torch.tensor(row.ids)
            attention[number, columns] = 1
            in_answer[number, columns] = torch.tensor(row.in_answer)
            reserved[number, start : start + self.reserved] = True
        inputs = {"input_ids": ids, "attention_mask": attention}
        if images:
            shown, left_out = scaled(images, self.image_processor) if self._centres else (images, {})
            tensors = self.image_processor(images=shown, return_tensors="pt", **left_out)
            inputs |= {name: tensors[name] for name in self.image_inputs}
        return Batch(
            inputs=inputs,
            answer_mask=in_answer if with_answers else None,
            prompt_mask=attention.bool() & ~in_answer & ~reserved,
            image_rows=torch.tensor(image_rows, dtype=torch.int64),
            samples=list(samples),
            indices=list(indices) or [-1] * len(samples),
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of generated tokens (S, L), stripped, without special tokens but `answer_tokens`."""
        rows = ids.tolist()
        if self._reads_special:
            rows = [[token for token in row if token not in self._unread] for row in rows]
        texts = self.tokenizer.batch_decode(
            rows, skip_special_tokens=not self._reads_special, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def _row(self, sample: Sample, image_tokens: int, *, with_answers: bool) -> _Row:
        text, spans = self._rendered(sample, with_answers=with_answers)
        tokens = self._tokens(text, [start for start, _ in spans], with_answers=with_answers)
        row = _Row([self.pad_id] * self.reserved, [False] * self.reserved)
        first = spans[0][0] if spans else len(text)
        for token, (start, end) in zip(tokens.ids, tokens.offsets, strict=True):
            copies = image_tokens if token == self.image_id else 1
            row.ids.extend([token] * copies)
            inside = end > first and any(start < stop and end > begin for begin, stop in spans)
            row.in_answer.extend([inside] * copies)
        self._require_fit(sample, len(row.ids))
        return row

    def _tokens(self, text: str, starts: Sequence[int], *, with_answers: bool) -> Tokens:
        """Tokens of a conversation whose answers start where it says.

        A generation prompt is tokenised whatever is answered to it; a training row begins with its tokens.
        """
        if not with_answers:
            return tokenise(self.tokenizer, text, starts)
        return tokenise_answered(self.tokenizer, text, starts, self._context_ids)

    def _require_fit(self, sample: Sample, length: int) -> None:
        if length > self.max_length:
            fix = "shorten the record or leave it out, or raise model.backbone.max_length"
            limit = f"more than the backbone's max_length {self.max_length}"
            raise SampleError.of(sample, "too long", f"has {length} tokens, {limit}; {fix}")

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
        if all(sample.image is None for sample in samples):
            return []
        mean = self.image_processor.image_mean
        return open_images(samples, aspect=self.image_aspect, mean=mean, centred=self._centres)

    @property
    def _centres(self) -> bool:
        # Families of dynamic resolution show the whole image, whatever their processor's settings are.
        return isinstance(self.num_image_tokens, int) and keeps_the_centre(self.image_processor)

    def _image_tokens(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[int]:
        number = self.num_image_tokens
        if isinstance(number, int):
            return [number] * len(images)
        shown = [sample for sample in samples if sample.image is not None]
        return [positions(number, sample, image.size) for sample, image in zip(shown, images, strict=True)]

    def _in_image(self, sample: Sample, measured: dict[SizedImage, int]) -> int:
        """Decoder positions of a sample's image; those of files are looked up in `measured`, or added."""
        image, number = sample.image, self.num_image_tokens
        if image is None:
            return 0
        if isinstance(number, int):
            return number
        if not isinstance(image, SizedImage):
            return positions(number, sample, self._shown(image.open().size))
        if image not in measured:
            measured[image] = positions(number, sample, self._shown(image.size()))
        return measured[image]

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height as the image processor is to see them."""
        return shown_size(size, self.image_aspect)

    @cached_property
    def _digest(self) -> str:
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # Whoever called it last has set these; a call without them takes them back.
        tokenizer |= {"truncation": None, "padding": None}
        parts = [
            ENCODING_VERSION,
            tokenizer,
            dataclasses.asdict(self.chat),
            repr(self.num_image_tokens),
            self.image_aspect,
            self.max_length,
            *([self.reserved] if self.reserved else []),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _token_id(self, token: str) -> int:
        ids = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer has no single token {token!r}, which this backbone's format needs"
            )
        return ids[0]


def _most_tokens(text: str) -> int:
    """At least as many tokens as a text has: each is a byte or more of it, as the tokenizer normalises it."""
    if text.isascii():
        return len(text) + _ADDED_TOKENS
    forms = (text, unicodedata.normalize("NFC", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms) + _ADDED_TOKENS


def _turns(sample: Sample, answer: str | None) -> list[tuple[str, str | None]]:
    return [*sample.history, (sample.user_text, answer)]
