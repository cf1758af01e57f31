"""Reading what a templated caption says: which objects, of which colour and shape, at which place."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CLAUSE_END = re.compile(r"\band\b|[,;.]")

Content = frozenset[tuple[str, str, str]]


def read_content(
    caption: str, *, colours: Sequence[str], shapes: Sequence[str], places: Sequence[str]
) -> Content | None:
    """Return the set of (colour, shape, place) that a caption states.

    The caption falls into clauses at "and", ",", ";" and "."; each clause names one object with its place,
    in any order and with any other words between. Where words of the vocabulary overlap ("top", "top left")
    the longest counts. Case, hyphens and repeated white space do not matter.

    Args:
        caption: The text.
        colours: Names of the colours.
        shapes: Names of the shapes.
        places: Names of the places, of one word or several.

    Returns:
        The stated objects, in the spelling of the vocabulary, or None if a clause that uses the vocabulary
        does not name exactly one colour, one shape and one place. A caption that names nothing is empty.
    """
    objects = set()
    for clause in _CLAUSE_END.split(_flat(caption)):
        named = [_named(clause, words) for words in (colours, shapes, places)]
        if any(named):
            if [len(words) for words in named] != [1, 1, 1]:
                return None
            objects.add((named[0][0], named[1][0], named[2][0]))
    return frozenset(objects)


def _named(clause: str, words: Sequence[str]) -> list[str]:
    spelling = {_flat(word): word for word in words}
    longest_first = sorted(spelling, key=len, reverse=True)
    pattern = rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"
    return [spelling[match[0]] for match in re.finditer(pattern, clause)]


def _flat(text: str) -> str:
    return " ".join(text.lower().replace("-", " ").split())
