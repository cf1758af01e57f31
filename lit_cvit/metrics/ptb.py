"""A tokeniser of captions that does what the COCO caption tools do, without Java.

The tools run Stanford's PTBTokenizer 3.4.1 (Penn Treebank conventions, lower-casing) and drop a list of
punctuation. This is an own description of that behaviour, checked against the tool: white space separates
chunks, and inside a chunk the longest of the patterns below wins.

Oddities of the tools that are kept: brackets stay, as `-lrb-` and the like (they are listed in capitals but
come lower-cased), "?!" stays, the euro is written "$". Not kept: what spans a space (tags with attributes,
telephone numbers, "1 1/2" as one token), SGML entities, smileys, and that the tool looks at the next caption
of its file to decide whether the stop after a single letter at the end ("plan B.") belongs to it; here it
does not.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest

_NO_LETTERS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f"  # superscripts, fractions
_LETTER = rf"[^\W\d_{_NO_LETTERS}]"
_ALNUM = rf"[^\W_{_NO_LETTERS}]"
_APOS = "['\u2019]"

# Titles, months, days, states, companies: the stop belongs to the word.
_ABBREVIATIONS = """
    mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov govs adm maj sgt cpl pvt mt
    capt st ste ave pres lieut hon brig comdr cmdr pfc spc supt supts det rev asst
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt
    wis wisc wyo inc cos co corp pty ptys ltd plc bancorp dept bhd assn univ intl sys natl est ext etc al seq
    jr sr bros ph esq blvd rd sq bldg vs alex wm jos cie cf treas ft tel
"""
# Words of their own in lower case.
_CAPITAL_ABBREVIATIONS = "Ark Del Ill La Mass Miss Ore Pa Tex Wash"
_BEFORE_NUMBERS = "ca fig figs prop no nos art op pp"
# A single letter with a stop is an initial, unless one of these follows as a word of its own.
_SENTENCE_STARTS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More
    Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When
    While Yet You
"""


def _any(words: str) -> str:
    return "|".join(sorted(words.split(), key=len, reverse=True))


_CLITIC = rf"{_APOS}(?:s|m|d|re|ve|ll|em)(?!{_ALNUM})"
_NOT = rf"n{_APOS}ts?(?!{_ALNUM})"
_NUMBER = r"(?:\d+(?:[.,:]\d+)*|(?:[.,]\d+)+)"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+\."
_PART = rf"(?:[dDoOlL](?!{_CLITIC}){_APOS})?{_ALNUM}+"

# The longest match wins; a group, if there is one, is the token and the rest only its context.
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        # fused words, cut after the group
        rf"(?i:('t)(?:is|was)|(can)not|(gon|wan)na|(got)ta|(lem|gim)me|(more){_APOS}n)(?!{_ALNUM})",
        # words, with stops inside ("google.com") but none at the end
        _WORD,
        # hyphens, underscores and slashes inside words: "mother-in-law", "3.5-inch", "and/or"
        rf"{_PART}(?:-{_PART})*",
        rf"{_ALNUM}+(?:_{_ALNUM}+)+",
        rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_ACRONYM}|[A-Za-z0-9]+))+",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        # numbers, dates
        rf"[-+]?{_NUMBER}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}|(?:\d{1,4}-)?\d{1,4}/\d{1,4}",
        # apostrophes that belong to the word, clitics that do not
        rf"[A-HJ-XZn]{_APOS}{_LETTER}{{2,}}",
        rf"{_LETTER}[a-z]*[aeiouy]{_APOS}[aeiouA-Z]{_LETTER}*",
        rf"(?i:c{_APOS}mon|e{_APOS}er|s{_APOS}mores|nat{_APOS}l|ol{_APOS}|(?:dunk|someth)in{_APOS})(?!{_ALNUM})",
        rf"[yY]{_APOS}(?={_LETTER})",
        rf"(?i:{_APOS}n{_APOS}|{_APOS}(?:n(?!\.)|em|till?|cause)(?!{_ALNUM}))",
        rf"{_APOS}(?:[2-9]0s|\d\d$)",
        rf"(?i:{_CLITIC}|{_NOT})",
        rf"(?i:({_LETTER}*(?!n){_LETTER}){_NOT})",
        # abbreviations, initials, acronyms
        rf"(?i:{_any(_ABBREVIATIONS)})\.",
        rf"(?:{_any(_CAPITAL_ABBREVIATIONS + ' ' + _CAPITAL_ABBREVIATIONS.upper())})\.",
        rf"(?i:{_any(_BEFORE_NUMBERS)})\.(?=\d)",
        rf"{_ACRONYM}|(?i:ph\.d|ed\.d)\.",
        # a stop before another mark is no end of a sentence: "10 lb., new"
        rf"((?:{_WORD}|{_PART})\.)[,;:]",
        r"[A-Z]+(?:[+&][A-Z]+)+",
        r"C\+\+|[CF]#",
        # addresses, names and tags
        r"https?://[^\s<>\"|()]*[^\s<>\"|().,;:!?']",
        r"(?:[^\W_](?:[\w-]*[^\W_])?\.)+(?:com|net|org|edu)(?:/[^\s<>\"|()]*[^\s<>\"|().,;:!?'])?",
        # in an e-mail address all marks but these, so that "you@y.net!" and "mail:me@x.org" are one token
        r"(?:&lt;|<)?[A-Za-z0-9][^\"<>|(){}]*@(?:[^\"<>|(){}.]+\.)*[^\"<>|(){}.]+(?:&gt;|>)?",
        r"@[A-Za-z_][A-Za-z0-9_]*",
        rf"#{_LETTER}+",
        r"</?[A-Za-z!?][\w:.-]*/?>",
        # marks that stay together
        r"[!?]{2,}|\.{2,}|-{2,}|<<|>>|_+|\*+|#+|@+|[A-Z]*\$|``|''",
    )
]
_NUMBERED = re.compile(rf"(?i:{_any(_BEFORE_NUMBERS)})\.$")
_INITIAL = re.compile(r"[A-Za-z]\.")
_INNER_INITIAL = re.compile(r"[A-Za-z]\.(?!$)")
_STARTS = frozenset((_SENTENCE_STARTS + _SENTENCE_STARTS.upper()).split())

_STRAIGHTENED = re.compile(r"(?i:\u2019(?:s|m|d|re|ve|ll)|n\u2019ts?)")
_WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u00a3": "#", "\u20ac": "$", "\u00a2": "cents",
    "\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
# Dropped: what the tools list, and the quotes and dashes that the tokeniser writes as one of those.
_DROPPED = re.compile(
    "[.?!,:;'`\"\u2018\u2019\u201c\u201d\u00ab\u00bb\u2039\u203a\u2026\u2013\u2014]|\\.{2,}|-{1,4}|``|''"
)


def ptb_tokenize(text: str) -> list[str]:
    """Return the tokens of a caption in lower case, without punctuation.

    Args:
        text: One caption; line breaks count as spaces.
    """
    chunks = text.split()
    tokens: list[str] = []
    for chunk, following in zip_longest(chunks, chunks[1:], fillvalue=""):
        ends_sentence = not following or following in _STARTS
        tokens.extend(_tokenize_chunk(chunk, following[:1].isdigit(), ends_sentence))
    return tokens


@lru_cache(maxsize=1 << 16)
def _tokenize_chunk(chunk: str, before_number: bool, ends_sentence: bool) -> tuple[str, ...]:
    return tuple(
        _write(token)
        for token in _split(chunk, before_number, ends_sentence)
        if not _DROPPED.fullmatch(token) and ord(token[0]) < 0x10000
    )


def _write(token: str) -> str:
    if _STRAIGHTENED.fullmatch(token):
        token = token.replace("\u2019", "'")
    return _WRITTEN.get(token, token.lower())


def _split(chunk: str, before_number: bool, ends_sentence: bool) -> list[str]:
    patterns = [*_PATTERNS, _INNER_INITIAL if ends_sentence else _INITIAL]
    if before_number:
        patterns.append(_NUMBERED)
    tokens, at = [], 0
    while at < len(chunk):
        matches = [match for pattern in patterns if (match := pattern.match(chunk, at))]
        longest = max(matches, key=re.Match.end, default=None)
        end = longest.end(longest.lastindex or 0) if longest else at + 1
        tokens.append(chunk[at:end])
        at = end
    return tokens
