"""Grouping of instructions by the TF-IDF similarity of their words (LCIA, Sec. 4.4, App. H, Table 10).

Similarity of two instructions: cosine of their TF-IDF vectors, with the inverse document frequencies of these
two texts alone. As in the published code (JingyangQiao/CoIN, instruct/LoRASelect.py:157-164) nothing is
fitted on a corpus, so an idf is 1 for a word of both texts and ln(3/2) + 1 for a word of one.

Similarity of a task to a group: the mean over all pairs of their instructions, as in that code and as needed
for the paper's Table 10; the paper's text says the maximum, which is `rule: max`.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

Rule = Literal["mean", "max"]
_ONE_OF_TWO = math.log(3 / 2) + 1


@functools.cache
def _analyzer() -> Callable[[str], list[str]]:
    # Comes with sentence-transformers; only its tokens and English stop words are needed.
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyzer: Callable[[str], list[str]] = TfidfVectorizer(stop_words="english").build_analyzer()
    return analyzer


@functools.lru_cache(maxsize=1 << 16)
def _words(text: str) -> Counter[str]:
    return Counter(_analyzer()(text))


@functools.lru_cache(maxsize=1 << 16)
def text_similarity(one: str, other: str) -> float:
    """TF-IDF cosine of two texts, fitted on the two alone, in [0, 1].

    A text without any usable word (stop words alone) is similar to itself and to nothing else; the published
    code fails on a pair of such texts.
    """
    if one == other:
        return 1.0
    a, b = _words(one), _words(other)
    shared = sum(count * b[word] for word, count in a.items() if word in b)
    lengths = [
        math.sqrt(sum((n * (1.0 if w in theirs else _ONE_OF_TWO)) ** 2 for w, n in own.items()))
        for own, theirs in ((a, b), (b, a))
    ]
    return shared / (lengths[0] * lengths[1]) if shared else 0.0


def group_similarities(texts: Sequence[str], groups: Sequence[Sequence[str]], rule: Rule) -> list[float]:
    """Similarity of a task's (or a sample's) instructions to each group.

    Args:
        texts: The instructions, at least one.
        groups: The instructions of each group, at least one each.
        rule: `mean` or `max` over all pairs.
    """
    found = []
    for group in groups:
        pairs = [text_similarity(text, known) for text in texts for known in group]
        found.append(max(pairs) if rule == "max" else math.fsum(pairs) / len(pairs))
    return found


def matching_group(similarities: Sequence[float], epsilon: float) -> int | None:
    """The first group of the highest similarity, or None where that is below `epsilon`."""
    best = max(similarities, default=-math.inf)
    return similarities.index(best) if best >= epsilon else None


def official_instruction(text: str, rule: Literal["vqa", "ref", "imn"] = "vqa", *, test: bool = False) -> str:
    """The part of a user's turn that the published code takes for the instruction.

    Args:
        text: The turn.
        rule: `vqa` the last line; `ref` (grounding) the last line up to a colon; `imn` (ImageNet) the second
            line of a training record, and all of a test record.
        test: Whether the turn is of a test record.

    Raises:
        ValueError: a training record under `imn` has one line only.
    """
    if rule == "imn":
        lines = text.split("\n")
        if not test and len(lines) < 2:
            raise ValueError(f"rule 'imn' takes the second line of a record, but {text!r} has one")
        return (text if test else lines[1]).strip()
    last = text.split("\n")[-1]
    return (last.split(":")[0] if rule == "ref" else last).strip()
