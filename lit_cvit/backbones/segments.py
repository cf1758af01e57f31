"""Tokens of a conversation in which no token reaches over the start of an answer.

A model that answers has the prompt's tokens before it, and makes the answer's tokens behind them. What it is
trained on has to look the same; but a tokenizer that is given prompt and answer at once may join the last
characters of one with the first of the other (a line break that ends ChatML's turn with one that begins the
answer, a colon with a space), or read what comes before with a view to what follows. There the two are
tokenised one by one. Where no token reaches over, the text is tokenised as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    """Tokens of a text.

    Attributes:
        ids: Their numbers.
        offsets: The [start, end) characters of each.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]

    def reach_over(self, cuts: Sequence[int]) -> list[int]:
        """Those of some rising positions that lie inside a token."""
        found = []
        for start, end in self.offsets:
            for cut in cuts[bisect_right(cuts, start) :]:
                if cut >= end:
                    break
                found.append(cut)
        return sorted(set(found))


def tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int], *, begins: bool = True
) -> Tokens:
    """Tokenise a text so that no token reaches over any of the positions `cuts`.

    Args:
        tokenizer: A fast tokenizer.
        text: The text.
        cuts: Rising positions in it, for example where answers start.
        begins: Whether the text begins a sequence, so that the tokenizer adds what it puts around one.
    """
    encoded = _proper(tokenizer).encode(text, add_special_tokens=begins)
    whole = Tokens(encoded.ids, encoded.offsets)
    crossed = whole.reach_over(cuts)
    if not crossed:
        return whole
    joined = Tokens([], [])
    for start, end in zip([0, *crossed], [*crossed, len(text)], strict=True):
        inside = [cut - start for cut in cuts if start < cut < end]
        part = tokenise(tokenizer, text[start:end], inside, begins=begins and start == 0)
        joined = _behind(joined, part, start)
    return joined


def tokenise_answered(
    tokenizer: PreTrainedTokenizerBase, text: str, starts: Sequence[int], context: Sequence[int] = ()
) -> Tokens:
    """Tokenise a conversation with its last answer so that it begins with the tokens of its prompt.

    Args:
        tokenizer: A fast tokenizer.
        text: The whole conversation.
        starts: Where each answer starts, the last one included.
        context: Tokens of what alone decides how an answer is tokenised (see `answer_context`), where that is
            known. If they stand before the answer, the prompt need not be tokenised for comparison.
    """
    found, cut = tokenise(tokenizer, text, starts), starts[-1]
    size = len(found.ids)
    while size and found.offsets[size - 1][1] > cut:
        size -= 1
    if context and found.ids[max(size - len(context), 0) : size] == list(context):
        return found
    # The prompt as the model is given it.
    prompt = tokenise(tokenizer, text[:cut], starts[:-1])
    if found.ids[: len(prompt.ids)] == prompt.ids:
        return found
    return _behind(prompt, tokenise(tokenizer, text[cut:], (), begins=False), cut)


def count_behind(tokenizer: PreTrainedTokenizerBase, context: str, answers: Sequence[str]) -> list[int]:
    """Number of tokens of each answer as `tokenise_answered` parts it from its prompt.

    Args:
        tokenizer: A fast tokenizer.
        context: What of the prompt decides an answer's tokens (see `answer_context`).
        answers: The answers, with what stands around them.
    """
    backend = _proper(tokenizer)
    prompt, cut = backend.encode(context, add_special_tokens=False).ids, len(context)
    counts = []
    for answer, found in zip(
        answers,
        backend.encode_batch([context + answer for answer in answers], add_special_tokens=False),
        strict=True,
    ):
        whole = Tokens(found.ids, found.offsets)
        if whole.ids[: len(prompt)] == prompt and not whole.reach_over([cut]):
            counts.append(sum(end > cut for _, end in whole.offsets))
        else:
            alone = backend.encode(answer, add_special_tokens=False)
            counts.append(sum(end > 0 for _, end in alone.offsets))
    return counts


def _proper(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The tokenizer proper: half of the time would go into lists of what is not asked for."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend


def _behind(first: Tokens, second: Tokens, position: int) -> Tokens:
    """Two runs of tokens in a row, of which the second begins at a position."""
    shifted = [(start + position, end + position) for start, end in second.offsets]
    return Tokens([*first.ids, *second.ids], [*first.offsets, *shifted])
