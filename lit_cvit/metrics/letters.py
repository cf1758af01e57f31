"""Reading the option letter out of an answer to a multiple-choice question."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from lit_cvit.metrics.text import plain

# Full-width forms, the ideographic space and curly quotes.
_USUAL = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
_USUAL |= {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}
# Brackets, quotes and stops of Chinese and Japanese.
_OPENING, _CLOSING = "\u300a\u300c\u300e\u3010", "\u3001\u3002\u300b\u300d\u300f\u3011"
_WRAPPING = string.whitespace + "()[]{}*_\"'`.:,;!" + _OPENING + _CLOSING
# Thai to Tibetan and Burmese, Khmer; Chinese, Japanese and their like; Hangul, whose particles join a letter.
_SPACELESS = (
    "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U00020000-\U0003ffff"
)
# A letter or digit that would make one word with the next, also across a hyphen ("T-shirt", "X-ray").
_JOINED = rf"[^\W{_SPACELESS}]"
_START, _END = rf"(?<!{_JOINED})(?<!{_JOINED}-)", rf"(?!-?{_JOINED}|'(?!s\b)\w)"
# "B. the moon", "(B) the moon", "b) the moon", "A - water"; not "U.S. flag" and not "a.m."
_LEADING = re.compile(
    # "A\u3001B" lists two.
    rf"[(\[*\"'{_OPENING}]*(?!(?:[A-Z]\u3001)+[A-Z](?!\w))"
    rf"(?:([A-Z])[\"'*]*(?:[.:)\]{_CLOSING}]+(?!\w\.)|\s+-\s)"
    rf"|([a-z])[\"'*]*(?:[.:)\]]+(?![^\s{_SPACELESS}])|[{_CLOSING}]))",
)
# "a" and "i" before a word are no letters, nor is "I": "the answer is a dog", "the answer I got".
_NO_WORD = r"(?![aiI]\s+(?!(?:or|and|is|as|because|since)\b)[a-z])"
_STATED = re.compile(
    rf"(?<!{_JOINED})(?:"
    rf"(?i:answer|option|choice)(?:(?:\s+(?i:is)|\s*:)+[\s(\[*\"']*|[\s(\[*\"']+){_START}{_NO_WORD}"
    rf"|(?i:option|choice)[\s(\[*\"']+(?![iI]\s+[a-z])"
    # Answer, option, choose, in Chinese and Japanese.
    r"|(?:\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|[\u9009\u9078][\u9879\u9805\u62e9\u64c7\u629e]?)"
    rf"[\u662f\u4e3a\u70ba\u306f\s:(\[*\"']*{_NO_WORD}"
    rf")([A-Za-z]){_END}(?!\.\w\.)"
    # "a or b" names two.
    rf"(?![\s)\]\"'*]*(?:,|/|\b(?:or|and)\b)[\s(\[\"']*(?![AaIi]\s+[a-z])[A-Za-z]{_END})"
)
# A capital on its own, but neither the article ("A dog") nor the pronoun ("I think", "I'm").
_ALONE = re.compile(
    rf"{_START}(?<!\w')(?![AI](?:'\w|\s+(?!(?:or|and|is|because|since)\b)[a-z]))([A-Z]){_END}(?!'\w)"
)
_OFFICIAL = re.compile(r"\b(\w)\b")
_HIDE_ALONE = re.compile(r"([A-E])(?:\. .*)?", re.DOTALL)
_HIDE_STATED = re.compile(r"The answer is ([A-Z]).")


def option_letter(text: str, choices: Sequence[str] = ()) -> str | None:
    """Return the option that an answer names, as a capital letter, or None if it names none or several.

    The first of these that applies decides: the whole answer is one letter, whatever brackets, quotes or
    stops surround it; it is the text of exactly one choice; it begins with an option mark ("B. the moon");
    it names one single letter, after "answer", "option" or "choice", or as a capital standing alone. Letters
    beyond the choices name nothing. Characters of scripts that are written without spaces (Chinese, Japanese)
    do not join a letter beside them, and full-width letters and marks are read as the usual ones.

    Args:
        text: The answer.
        choices: The options in letter order; empty if they are not known, then A to Z are allowed.
    """
    allowed = string.ascii_uppercase[: len(choices)] if choices else string.ascii_uppercase
    text = text.translate(_USUAL)
    bare = text.strip(_WRAPPING).upper()
    if len(bare) == 1:
        return bare if bare in allowed else None
    same = [
        letter
        for letter, choice in zip(allowed, choices, strict=False)
        if plain(choice.translate(_USUAL)) == plain(text)
    ]
    if len(same) == 1:
        return same[0]
    if mark := _LEADING.match(text.strip()):
        found = {mark[1] or mark[2].upper()}
    else:
        found = {match[1].upper() for match in _STATED.finditer(text)}
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
