"""When an answer has the same tokens whatever the prompt says: then it can be counted without the prompt.

Prompts are long, differ in every sample, and change with the instruction of an epoch; answers are short and
often the same. Two things make an answer's tokens independent of the user's text:

* The start of the model's turn has a special token, as in ChatML. A tokenizer cuts the text at special tokens
  first, and what lies between two of them is tokenised by itself.
* The turn starts with plain text, as `ASSISTANT:` does, and no token reaches over the gap between its last
  character and the space before the answer. Byte-pair encoding merges neighbours in an order of its own, so
  two sides that are never joined are merged as if each stood alone (the merges of one side do not see the
  other). What comes before, the normaliser and the split into words, must not look across the gap either:
  only kinds of which that is known are accepted.

Where neither can be shown, the whole prompt is tokenised, in every epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_cvit.backbones.chat import ChatFormat

# They change characters one by one; those that compose do so with what is not ASCII.
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend"}
# How vocabularies write a space.
_SPACES = (" ", "\u2581", "\u0120")
# Matches one character that is no space, whatever stands before it.
_ONE_CHARACTER = re.compile(r"\[[^\]\[\\^\s]+\](\(\?!\[[^\]\[\\\s]+\]\))?")


def answer_context(tokenizer: Any, chat: ChatFormat) -> str | None:
    """How much of the text before an answer decides its tokens.

    Args:
        tokenizer: A fast tokenizer.
        chat: The conversation format.

    Returns:
        The end of `chat.assistant` that an answer has to be tokenised behind; None if the user's text may
        decide too.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    added = parts["added_tokens"]
    # A vocabulary may have thousands of added tokens.
    used = [token for token in added if token["content"] in chat.assistant or token["content"] == chat.end]
    alone = [token["content"] for token in used if _stands_alone(token, added)]
    if chat.end not in alone or getattr(tokenizer, "split_special_tokens", False):
        return None
    last = max((chat.assistant.rfind(content) for content in alone), default=-1)
    if last >= 0:
        return chat.assistant[last:]
    return chat.assistant if _parts_at_the_space(parts, chat) else None


def _stands_alone(token: Mapping[str, Any], added: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a text is cut at this token wherever it stands: no other added token can take a part of it."""
    if token["normalized"] or token["single_word"]:
        return False
    content = token["content"]
    return not any(
        (other["content"] != content and content in other["content"])
        or _overlap(other["content"], content)
        or _overlap(content, other["content"])
        for other in added
    )


def _overlap(first: str, second: str) -> bool:
    """Whether a text can hold both with the end of the first in the beginning of the second."""
    return any(first.endswith(second[:size]) for size in range(1, min(len(first), len(second))))


def _parts_at_the_space(parts: Mapping[str, Any], chat: ChatFormat) -> bool:
    """Whether the tokenizer always parts the last character of the turn's start from the space behind it."""
    before = chat.assistant[-1:]
    if not chat.lead.startswith(" ") or not before.isascii() or before.isalnum() or before.isspace():
        return False
    model, added = parts["model"], parts["added_tokens"]
    if model["type"] != "BPE" or not before:
        return False
    if any(t["lstrip"] or t["rstrip"] or t["single_word"] or t["content"].endswith(before) for t in added):
        return False
    joined = tuple(before + space for space in _SPACES)
    vocabulary = [*model["vocab"], *(token["content"] for token in added)]
    # A space that is no token of its own would be joined with what else is unknown.
    if not any(space in model["vocab"] for space in _SPACES) or any(
        pair in token for token in vocabulary for pair in joined
    ):
        return False
    return all(map(_normalises_locally, _flat(parts["normalizer"], "normalizers"))) and all(
        map(_splits_locally, _flat(parts["pre_tokenizer"], "pretokenizers"))
    )


def _flat(part: Mapping[str, Any] | None, name: str) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    if part["type"] == "Sequence":
        for each in part[name]:
            yield from _flat(each, name)
    else:
        yield part


def _normalises_locally(normalizer: Mapping[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return len(normalizer["pattern"].get("String", "")) == 1
    return normalizer["type"] in _LOCAL_NORMALIZERS


def _splits_locally(splitter: Mapping[str, Any]) -> bool:
    """Whether words are the same behind the gap, whatever stands before it.

    ByteLevel's own pattern has no word with a space behind another character, and looks ahead only;
    Metaspace starts a word at every space, or splits nothing.
    """
    if splitter["type"] == "Split":
        pattern = splitter["pattern"].get("Regex", "")
        isolated = splitter["behavior"] == "Isolated" and not splitter["invert"]
        return isolated and all(map(_ONE_CHARACTER.fullmatch, pattern.split("|")))
    return splitter["type"] == "Metaspace" or (splitter["type"] == "ByteLevel" and splitter["use_regex"])
