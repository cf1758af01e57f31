"""Normal forms of answers: the EvalAI chain of the VQA and TextVQA evaluation, and a milder one.

The EvalAI chain is kept with its oddities, because published scores depend on them; each is noted where it
stands. Source of the rules: the TextVQA (M4C) answer processor, which copies the VQA evaluation tool
(arXiv 1505.00468, Sec. 3.3 and its evaluation code).
"""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})

# An answer that lacks exactly one apostrophe of these becomes the word itself ("dont", "couldn'tve").
_CONTRACTIONS = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
must've mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't
we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've
you'll you're you've
"""
_REPAIRED = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, character in enumerate(word)
    if character == "'"
}
_REPAIRED["somebody'd"] = "somebodyd"  # the official table has this pair the wrong way round

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official call passes re.UNICODE where `count` belongs, so only the first 32 full stops go.
_MAX_FULL_STOPS = 32

_EDGE_PUNCTUATION = " \t\r\n.,;:!?\"'`"


@lru_cache(maxsize=1 << 16)
def evalai_normalize(text: str) -> str:
    """Return the EvalAI normal form: lower case, no punctuation, digits for number words, no articles."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return normalize_words(strip_punctuation(text))


def strip_punctuation(text: str) -> str:
    """Remove each punctuation mark, or put a space where it joins two words.

    A mark is removed everywhere if it stands next to a space somewhere in the text, and so is every mark as
    soon as the text holds a number with a thousands comma; otherwise it becomes a space.
    """
    number_with_comma = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or number_with_comma else " ")
    return _FULL_STOP.sub("", result, count=_MAX_FULL_STOPS)


def normalize_words(text: str) -> str:
    """Lower the case, write number words as digits, drop articles, restore apostrophes of contractions."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def plain(text: str) -> str:
    """Return the text in lower case without outer white space and without one final full stop.

    A text that is nothing but that stays as it is: it must not equal an empty answer.
    """
    text = text.strip().lower()
    return text.removesuffix(".").rstrip() or text


def class_name(text: str) -> str:
    """Return the normal form of a class name: lower case, words apart by one space, no leading article.

    Underscores and hyphens count as spaces, and punctuation at either end is dropped. A text of such marks
    alone stays as it is: it must not equal an empty answer.
    """
    words = re.sub(r"[\s_-]+", " ", text.lower()).strip(_EDGE_PUNCTUATION).split() or text.lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)
