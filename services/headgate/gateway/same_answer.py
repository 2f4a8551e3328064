"""Whether two answers say the same, as a program can tell: in doubt they do not.

Audits of the semantic cache hang on it. To call equal answers different costs hits; to call different ones
equal would hide errors. So only what never carries meaning is passed over: space between words, capitals of
plain words, the full stop. What may carry it stays: "5 mW" is not "5 MW", "2⁵" not "25", "5!" not "5", and in
code or other text with indented lines every character counts. So it does in one of more than `MOST`
characters, because to read it otherwise would hold up other requests.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MOST: Final = 32 * 1024
"""Characters of a text that is compared word by word, or that a pattern is looked for in: some 5 ms."""
_KEPT: Final = ("<super>", "<sub>", "<fraction>")
"""Characters that NFKC would turn into plain digits: 2⁵ into 25."""
_WORD: Final = re.compile(r"[^\W\d_]+")
_PLAIN: Final = 4
"""Letters of a word whose capitals say nothing; shorter ones may be units, or names of variables."""
_INDENTED: Final = re.compile(r"^[ \t]+\S|```", re.MULTILINE)


def same_answer(one: str, other: str, pattern: re.Pattern[str] | None = None) -> bool:
    """Whether both say the same.

    With a pattern that is what its first group, or all of it, matches last; where it matches in neither text,
    or matches nothing, the texts are compared.
    """
    if one == other:
        return True
    if pattern is not None:
        found = _found(one, pattern), _found(other, pattern)
        if any(found):
            return all(found) and _normal(found[0]) == _normal(found[1])
    long = max(len(one), len(other)) > MOST
    if long or _INDENTED.search(one.strip()) or _INDENTED.search(other.strip()):
        return one.strip() == other.strip()
    return _normal(one) == _normal(other)


def _found(text: str, pattern: re.Pattern[str]) -> str:
    last = None
    for last in pattern.finditer(text[-MOST:]):  # noqa: B007
        pass
    if last is None:
        return ""
    return (last.group(1) if pattern.groups else last.group()) or ""


def _normal(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        text = text.translate({ord(one): _composed(one) for one in set(text) if not one.isascii()})
    words = " ".join(text.split()).rstrip(" .。…")
    while len(words) > 1 and words[-1] == "!" and words[-2].isalpha():
        words = words[:-1].rstrip(" .。…")
    return _WORD.sub(lambda word: _lower(word.group(), starts=word.start() == 0), words)


def _composed(character: str) -> str:
    kept = unicodedata.decomposition(character).startswith(_KEPT)
    return character if kept else unicodedata.normalize("NFKC", character)


def _lower(word: str, *, starts: bool) -> str:
    """ "Paris" and "PARIS" as "paris", but not "iPhone", which is written so."""
    usual = word.isupper() or word.istitle()
    if usual and (len(word) >= _PLAIN or (starts and word.istitle() and len(word) > 1)):
        return word.lower()
    return word
