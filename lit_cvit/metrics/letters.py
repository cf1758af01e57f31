"""Reading the option letter out of an answer to a multiple-choice question."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from lit_cvit.metrics.text import plain

_WRAPPING = string.whitespace + "()[]{}*_\"'`.:,"
# "B. the moon", "(B) the moon", "b) the moon", "A - water"; not "U.S. flag" and not "a.m."
_LEADING = re.compile(
    r"[(\[*\"']*(?:([A-Z])[\"'*]*(?:[.:)\]]+(?!\w\.)|\s+-\s)|([a-z])[\"'*]*[.:)\]]+(?!\S))",
)
_STATED = re.compile(
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is|:)*[\s(\[*\"']+(?:([A-Z])\b|([a-z])\W*$)", re.MULTILINE
)
# A capital on its own, but neither the article ("A dog") nor the pronoun ("I think", "I'm").
_ALONE = re.compile(r"(?<![\w'])(?![AI](?:'|\s+(?!(?:or|and)\b)[a-z]))([A-Z])(?![\w'])")
_OFFICIAL = re.compile(r"\b(\w)\b")
_HIDE_ALONE = re.compile(r"([A-E])(?:\. .*)?", re.DOTALL)
_HIDE_STATED = re.compile(r"The answer is ([A-Z]).")


def option_letter(text: str, choices: Sequence[str] = ()) -> str | None:
    """Return the option that an answer names, as a capital letter, or None if it names none or several.

    The first of these that applies decides: the whole answer is one letter, whatever brackets, quotes or
    stops surround it; it is the text of exactly one choice; it begins with an option mark ("B. the moon");
    it names one single letter, after "answer", "option" or "choice", or as a capital standing alone. Letters
    beyond the choices name nothing.

    Args:
        text: The answer.
        choices: The options in letter order; empty if they are not known, then A to Z are allowed.
    """
    allowed = string.ascii_uppercase[: len(choices)] if choices else string.ascii_uppercase
    bare = text.strip(_WRAPPING).upper()
    if len(bare) == 1:
        return bare if bare in allowed else None
    same = [letter for letter, choice in zip(allowed, choices, strict=False) if plain(choice) == plain(text)]
    if len(same) == 1:
        return same[0]
    if mark := _LEADING.match(text.strip()):
        found = {mark[1] or mark[2].upper()}
    else:
        found = {(match[1] or match[2]).upper() for match in _STATED.finditer(text)}
        found.update(match[1] for match in _ALONE.finditer(text))
    named = sorted(found & set(allowed))
    return named[0] if len(named) == 1 else None


def official_option_letter(text: str) -> str | None:
    """Return the first word character that stands alone, as a capital letter, or None.

    This is the rule of the ScienceQA scripts of SMoLoRA, CoIN and LCIA. It reads the article of "It is a
    dog" as option A and the "s" of "It's B" as option S.
    """
    match = _OFFICIAL.search(text)
    return match[1].upper() if match else None


def hide_option_letter(text: str) -> str | None:
    """Return the option as HiDe's ScienceQA script reads it, or None.

    That is an answer that is one letter from A to E, or begins with one, a stop and a space, or says "The
    answer is", a capital and any other character exactly once. "B." and "(B)" are read as nothing.
    """
    if match := _HIDE_ALONE.fullmatch(text):
        return match[1]
    stated = _HIDE_STATED.findall(text)
    return stated[0] if len(stated) == 1 else None
