"""What the little words of a question say: who, may or must, then or now, all or some, and who does what.

No vector holds them, for every question is full of them. A paraphrase adds and drops them, so two questions
contradict only where both say something, and nothing that both say. What is asked of whoever answers, such as
"can you tell me", says nothing. English only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

from headgate.router import lexicon

SAID_BYTES, LINK_BYTES = 3, 32
_SLOTS = 4 * LINK_BYTES
_FIRST_SIDES = int("01" * _SLOTS, 2)
_EDGES = "\"'“”‘’«»()[]{}<>,;:!?.…*_~|"
_ENDS = (*",.;:?!", ")", '"', "”")

_I, _YOU, _THEY = 1, 2, 4
_I_DO, _TO_ME, _HE_DOES, _TO_HIM, _SHE_DOES, _TO_HER, _THEY_DO, _TO_THEM = (1 << bit for bit in range(3, 11))
_CAN, _MUST, _SHOULD, _WILL = (1 << bit for bit in range(11, 15))
_THEN, _NOW = 1 << 15, 1 << 16
_ALL, _SOME = 1 << 17, 1 << 18
_MASKS = {
    "persons": _I | _YOU | _THEY,
    "modality": _CAN | _MUST | _SHOULD | _WILL,
    "tense": _THEN | _NOW,
    "amount": _ALL | _SOME,
}
GUARDS = (*_MASKS, "roles")
_CASES = (_I_DO | _TO_ME, _HE_DOES | _TO_HIM, _SHE_DOES | _TO_HER, _THEY_DO | _TO_THEM)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _each(words: str, bits: int) -> dict[str, int]:
    return dict.fromkeys(words.split(), bits)


_PERSONS = (
    _each("i we", _I | _I_DO) | _each("me us", _I | _TO_ME) | _each("my mine our ours myself", _I)
    | _each("you your yours", _YOU)
    | _each("he", _THEY | _HE_DOES) | _each("him", _THEY | _TO_HIM) | _each("his", _THEY)
    | _each("she", _THEY | _SHE_DOES) | _each("her", _THEY | _TO_HER) | _each("hers", _THEY)
    | _each("they", _THEY | _THEY_DO) | _each("them", _THEY | _TO_THEM) | _each("their theirs", _THEY)
)  # fmt: skip
_MODALS = (
    _each("can could may might", _CAN) | _each("must", _MUST) | _each("should shall", _SHOULD)
    | _each("will would", _WILL)
)  # fmt: skip
_TENSES = _each("was were did had", _THEN) | _each("is are am do does", _NOW)
_AMOUNTS = _each("all every each entire whole", _ALL) | _each("some several few any", _SOME)
_ASKS = frozenset(("what", "which", *lexicon.QUESTIONS))
_SPEAKS = frozenset((*_PERSONS, *_MODALS, *_TENSES, *_AMOUNTS, *_ASKS, "s"))
_WONDERS = _set("wondering curious")
_DO = _set("do does did")
_TELLS = _set("tell show give help let for")
_WISHES = _set("want wanted need would d like wish wonder am m was")
_ASKED = _set("can could would will")
_KNOWS = _set("know think mind")
_OPENS = _set("me please so hi hello hey there and thing question but")
_WIDE = _set("at after above hello hi")
_BESIDE = _set("and or with vs versus between")
"""What stands around these may change places."""
_BETWEEN = _set(
    "of for at by from in into on onto to about against through before after above below over under than as"
    " is are was were be have has had need want like know give show tell get got let help say"
)
"""What says how the words around it hang together; articles, pronouns and other auxiliaries do not."""
_UNLINKED = lexicon.FUNCTION_WORDS.union(
    lexicon.CARDINALS, lexicon.SCALES, lexicon.ORDINALS, lexicon.UNITS, lexicon.DATES
)
"""Numbers, units and dates have guards of their own, and stand anywhere."""
_STEM = 3
_MOST_PARTS = 3
"""In so many places a word is taken apart: no word has more apostrophes."""


class LittleWords(NamedTuple):
    """Of one text."""

    said: bytes
    """(SAID_BYTES,)"""
    links: bytes
    """(LINK_BYTES,): which content words are neighbours in a clause, by what, and which comes first."""


def read(chunks: Sequence[str]) -> LittleWords:
    """Of a text's words, with straight apostrophes and all their marks."""
    words, ends = _words(chunks)
    return LittleWords(_said(words, ends).to_bytes(SAID_BYTES, "little"), _links(words, ends))


def difference(a: bytes, b: bytes) -> str:
    """In what two `said` contradict each other: one of GUARDS but "roles", or "" for nothing."""
    one, other = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    return next((guard for guard, mask in _MASKS.items() if _apart(one, other, mask)), "")


def other_roles(a: bytes, b: bytes) -> bool:
    """Whether somebody does in the one what is done to him in the other; of the same content words only."""
    one, other = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    return any(_apart(one, other, mask) for mask in _CASES)


def turned(a: bytes, b: bytes) -> bool:
    """Whether words of the one stand the other way round in the other; of the same content words only."""
    one, other = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    firsts, others = one & ~(one >> 1) & _FIRST_SIDES, other & ~(other >> 1) & _FIRST_SIDES
    seconds, other_seconds = one >> 1 & ~one & _FIRST_SIDES, other >> 1 & ~other & _FIRST_SIDES
    return bool(firsts & other_seconds | seconds & others)


def stem(word: str) -> str:
    """Without the s of a plural or of he, she, it; "needed" and "needs" are no more one: one is passive."""
    return word[:-1] if len(word) > _STEM and word.endswith("s") and not word.endswith("ss") else word


def _apart(one: int, other: int, mask: int) -> bool:
    return bool(one & mask and other & mask and not one & other & mask)


def _words(chunks: Sequence[str]) -> tuple[list[str], list[bool]]:
    """Lower-case words, the parts of "what's" each for itself, and whether a clause ends there."""
    words: list[str] = []
    ends: list[bool] = []
    for chunk in chunks:
        word = chunk.strip(_EDGES).lower()
        if word.endswith("n't"):
            parts = [{"ca": "can", "wo": "will"}.get(word[:-3], word[:-3])]
        else:
            parts = word.split("'", _MOST_PARTS) if "'" in word else [word]
        words.extend(parts)
        ends.extend([False] * (len(parts) - 1))
        ends.append(chunk.endswith(_ENDS) or not word)
    return words, ends


def _said(words: list[str], ends: list[bool]) -> int:
    said, asked, modal = 0, False, False
    for place, word in enumerate(words):
        if word not in _SPEAKS:
            continue
        before = words[place - 1] if place else ""
        after, later = (*words[place + 1 : place + 3], "", "")[:2]
        if word in _ASKS:
            asked = True
        elif word in _PERSONS:
            said |= 0 if _is_polite(word, before, after, asked) else _PERSONS[word]
        elif word in _AMOUNTS:
            said |= 0 if after in lexicon.TIMES or (word == "all" and before in _WIDE) else _AMOUNTS[word]
        elif word == "s":
            said |= _NOW if before in _ASKS else 0
        else:
            if not (after in _WONDERS or later in _WONDERS or (after == "you" and later in _KNOWS)):
                said |= _TENSES.get(word, 0)
            starts = place == 0 or ends[place - 1] or before in _OPENS
            if starts and not asked and not modal and after != "you":
                must = word in _DO and _has_to(words[place + 1 : place + 6])
                found = _MODALS.get(word, _MUST if must else 0)
                said, modal = said | found, bool(found)
    return said


def _is_polite(word: str, before: str, after: str, asked: bool) -> bool:
    """Whether it only says who asks whom."""
    if word in ("me", "us"):
        return before in _TELLS
    if word in ("i", "we"):
        return after in _WISHES
    return word == "you" and (before == "thank" or after in _KNOWS or (before in _ASKED and not asked))


def _has_to(words: Sequence[str]) -> bool:
    return any(one in ("have", "need") and two == "to" for one, two in pairwise(words))


def _links(words: list[str], ends: list[bool]) -> bytes:
    sides, last, via = 0, "", ""
    for word, end in zip(words, ends, strict=True):
        if word in _BESIDE:
            last = ""
        elif word in _BETWEEN:
            via += " " + word
        elif word.isalpha() and word not in _UNLINKED:
            word = stem(word)
            if last and last != word:
                first, second = sorted((last, word))
                slot = crc32(f"{first}\0{via}\0{second}".encode("utf-8", "replace")) % _SLOTS
                sides |= 1 << (2 * slot + (first != last))
            last, via = word, ""
        if end:
            last, via = "", ""
    return sides.to_bytes(LINK_BYTES, "little")
