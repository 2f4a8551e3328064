"""What two questions must agree on to have one answer, however alike they sound.

A text is read once, word by word, into marks: its numbers, negations, names, units, dates, code, opposites,
question word, task. Most marks must be equal; a few contradict only where both texts have them, because a
paraphrase may leave them out. What is kept is digests and bits of a fixed size, never words.

Of a long text only the first `READ_WORDS` words are read so; whatever follows must be the same to the letter,
and so must all of a text with indented lines or fences, where spaces mean something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise

from headgate.router import lexicon, little_words

READ_WORDS = 64
"""A longer text is a document with a question: a word changed in it may change the answer and no vector."""
_READ_PIECES = 64
"""So many pieces of joined words and of numbers are read; what has more of them is code."""

_EQUAL = ("numbers", "negation", "names", "units", "dates", "code", "task", "rest")
"""Guards whose digests must be equal."""
_DIGEST = 8
_QUESTION = len(_EQUAL) * _DIGEST
_SAID = _QUESTION + 1
_BAG = _SAID + little_words.SAID_BYTES
_ORDER = _BAG + _DIGEST
_COUNTS = _ORDER + _DIGEST
_LINKS = _COUNTS + _DIGEST
_POLES = _LINKS + little_words.LINK_BYTES
FACTS_BYTES = _POLES + lexicon.AXES // 4
GUARDS = (*_EQUAL, "question", *little_words.GUARDS, "order", "opposites")

_NOTHING = bytes(_DIGEST)
_FIRST_SIDES = int("01" * lexicon.AXES, 2)
_KINDS = {word: number for number, word in enumerate(dict.fromkeys(lexicon.QUESTIONS.values()), start=1)}
_HOW, _WHETHER, _MANY, _LONG = _KINDS["how"], 200, 201, 202
_WHO, _WHO_DOES, _WHO_IS_DONE_TO = _KINDS["who"], 203, 204
_WHOS = frozenset((_WHO, _WHO_DOES, _WHO_IS_DONE_TO))
_WHEN = _KINDS["when"]
_WHICH_TIME = {word: number for number, word in enumerate(sorted(lexicon.ASKED_TIMES), start=210)}
_WHENS = frozenset((_WHEN, *_WHICH_TIME.values()))
_DONE_TO = frozenset(("do", "does", "did"))
_SUBJECTS = frozenset(("i", "we", "you", "he", "she", "they"))
_SPANS = frozenset(
    ("long", "often", "old", "far", "fast", "big", "tall", "deep", "heavy", "hot", "late", "soon", "wide")
)

_EDGES = "\"'“”‘’«»()[]{}<>,;:!?.…*_~|"
_QUOTED = re.compile(r"`([^`]+)`|\"([^\"\n]+)\"|“([^“”]+)”|(?:(?<=\s)|^)['‘]([^'‘’\n]+)['’](?=[\s?.!,;:]|$)")
"""What is quoted holds no mark that opens a quotation: else many of them would each be read to the end."""
_LAID_OUT = re.compile(r"^[ \t]+\S|```", re.MULTILINE)
_APOSTROPHES = str.maketrans("’‘`´", "''''")
_JOINED = re.compile(r"[^\W\d_]+(?:[-'/&.][^\W\d_]+)*\.?")
_PIECES = re.compile(r"[-'/&.]")
_NUMERIC = re.compile(
    r"[-+~<>=≤≥#$€£¥₹×x(]*\d[\d.,:;/×x\-–—+]*(?:st|nd|rd|th)?[a-zA-Zµ°%Ω\"]{0,6}[)]*(?:/[a-z]+)?"
)
_NUMBERS = re.compile(
    r"(?<![\d,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)*|[^\W\d_]+|°[cCfF]?|[^\w\s,]"
)
"""Thousands begin where no number goes on: else a long row of them would be read to its end from each."""
_SIGNS = frozenset("+-*/=<>^~≤≥#×!")
_NO_OPERATOR = frozenset(("-", "–", "—", "&", "/", "•", "*", "#", "~", "(", ")", "[", "]"))
_DASHES = frozenset("-–—")
_OPERATORS = frozenset("+*/^×÷=<>")
_LETTER_BEFORE = frozenset(("or", "and", "is", "to", "than", "plus", "minus", "then", "equals"))
"""What follows an "a" that is a letter, and no article."""
_ACRONYMS = frozenset(("US", "IT", "WHO"))
"""Those that are little words otherwise."""
_SHORT_UNIT = 3
_LONGEST_COUNT, _LONGEST_WORD = 30, 64
_TITLE = 3
"""More words than these, most of them with a capital, are a title or shouted: capitals are no names there."""
_SENTENCE_ENDS = (".", "?", "!", ":", ";", '"', "”")


WORD, NAME, NEGATIVE = 1, 2, 4
"""What is known of a word, in bits: the table has it; it mostly has a capital inside sentences; it is the
negative of another word, such as "unhappy"."""

Lookup = Callable[[str], int]
"""What is known of a word; 0 for one that the table does not have."""


class Marks:
    """What a text says, word by word: `words` for the embedding, and one list for each guard."""

    __slots__ = (
        "_counts",
        "_little",
        "_lookup",
        "_pieces",
        "_poles",
        "_question",
        "_shouted",
        "_ways",
        "found",
        "words",
    )

    def __init__(self, text: str, lookup: Lookup) -> None:
        self._lookup, self._question, self._poles, self._pieces = lookup, 0, 0, 0
        self.words: list[str] = []
        self._ways: list[str] = []
        self._counts: list[str] = []
        self.found: dict[str, list[str]] = {guard: [] for guard in _EQUAL}
        written = text.split(maxsplit=READ_WORDS)
        self.found["rest"] = [rest.rstrip() for rest in written[READ_WORDS:]]
        written = written[:READ_WORDS]
        start = " ".join(written)
        straight = start.translate(_APOSTROPHES)
        chunks = written if straight == start else straight.split()
        self._read(chunks)
        self._little = little_words.read(chunks)
        if straight != start or '"' in start or "'" in start or "“" in start:
            for groups in _QUOTED.findall(start):
                self.found["code"].append(" ".join("".join(groups).lower().split()))
        if _LAID_OUT.search(text):
            self.found["code"].append(text.strip())

    @property
    def facts(self) -> bytes:
        """(FACTS_BYTES,)"""
        found = self.found
        found["names"] = list(dict.fromkeys(found["names"]))
        found["negation"].sort()
        found["dates"].sort()
        content = [little_words.stem(word) for word in self.words if word not in lexicon.FUNCTION_WORDS]
        return b"".join(
            (
                *(_digest(found[guard]) for guard in _EQUAL),
                bytes((self._question,)),
                self._little.said,
                _digest(sorted(content)),
                _digest(sorted(self._ways)),
                _digest(sorted(self._counts)),
                self._little.links,
                self._poles.to_bytes(lexicon.AXES // 4, "little"),
            )
        )

    def _read(self, chunks: Sequence[str]) -> None:
        inside = [chunk for before, chunk in pairwise(chunks) if not before.endswith(_SENTENCE_ENDS)]
        capitals = sum(chunk[0].isupper() for chunk in inside)
        self._shouted = 2 * capitals > len(inside) > _TITLE
        starts = True
        for place, chunk in enumerate(chunks):
            word = chunk.strip(_EDGES)
            if "(" in chunk or ")" in chunk:
                self._brackets(chunk, chunks, place)
            if word.isalpha():
                self._word(word, starts, chunks, place)
            elif word[-1:].isalnum() or word[:1].isalnum():
                self._odd(word, chunk, starts, chunks, place)
            else:
                self._sign(chunk.strip("\"'“”‘’.,;:?"), chunks, place)
            starts = chunk.endswith(_SENTENCE_ENDS)
            if word in lexicon.WAYS and _bare(chunks, place - 1) not in lexicon.FUNCTION_WORDS:
                self._ways.append(f"{word} {_next_content(chunks, place)}")

    def _brackets(self, chunk: str, chunks: Sequence[str], place: int) -> None:
        """Those beside an operator, as in "(3 + 4) * 2"; others are punctuation."""
        opens, closes = chunk.startswith("("), chunk.rstrip("?.!,;:").endswith(")")
        inside = any(sign in _OPERATORS or sign == "-" for sign in chunk) and any(map(str.isdigit, chunk))
        if opens and (inside or _is_operator(chunks, place + 1)):
            self.found["code"].append("(" * (len(chunk) - len(chunk.lstrip("("))))
        if closes and (inside or _is_operator(chunks, place - 1)):
            self.found["code"].append(")")

    def _odd(self, word: str, chunk: str, starts: bool, chunks: Sequence[str], place: int) -> None:
        """What is not letters only: joined words, numbers with their units, or else code."""
        if _JOINED.fullmatch(word):
            self._joined(word, starts, chunks, place)
        elif _NUMERIC.fullmatch(word):
            self._numeric(word + "!" * chunk.rstrip("?.").endswith("!"), chunks, place)
        elif unit := lexicon.unit(word):
            self._unit(unit)
        else:
            self._code(word.lower() if word.replace("-", "").isalnum() else word)

    def _sign(self, sign: str, chunks: Sequence[str], place: int) -> None:
        if sign in lexicon.UNITS:
            self._unit(lexicon.UNITS[sign])
        elif sign and (sign not in _NO_OPERATOR or _between_numbers(chunks, place)):
            self.found["code"].append("-" if sign in _DASHES else sign)

    def _joined(self, word: str, starts: bool, chunks: Sequence[str], place: int) -> None:
        lower = word.lower()
        if lower in lexicon.UNITS or lower in lexicon.DATES:
            self._word(word, starts, chunks, place)
        elif lower.endswith("n't"):
            self._word({"ca": "can", "wo": "will"}.get(lower[:-3], lower[:-3]), True, chunks, place)
            self.found["negation"].append("not")
        elif "." in word.rstrip(".") and len(max(word.split("."), key=len)) > 1:
            self._code(word)
        elif _is_compound(lower):
            tens, _, ones = lower.partition("-")
            self._number(str(lexicon.CARDINALS[tens] + lexicon.CARDINALS[ones]))
        elif self._too_many(pieces := _PIECES.split(word)):
            self._code(word)
        else:
            for piece in pieces:
                if piece.lower() not in ("", "s", "m", "re", "ve", "d", "ll"):
                    self._word(piece, starts, chunks, place)

    def _numeric(self, word: str, chunks: Sequence[str], place: int) -> None:
        parts = _NUMBERS.findall(word)
        if self._too_many(parts):
            self._code(word)
            return
        for before, part in zip(("", *parts), parts, strict=False):
            if part[0].isdigit():
                self._number(_plain(part))
            elif part in _DASHES and before[:1].isdigit():
                self.found["code"].append("-")
            elif part in _SIGNS:
                self._number(part) if part != "-" or before == "" else None
            elif part in lexicon.UNITS and part not in lexicon.CASED:
                self._unit(lexicon.UNITS[part])
            elif part.lower() in ("st", "nd", "rd", "th"):
                self.found["numbers"][-1] += "th"
            else:
                self._unit_after(part)
        if place + 1 < len(chunks) and parts[-1][0].isdigit():
            self._short_unit(chunks[place + 1])
            self._counts_what(_plain(parts[-1]), chunks[place], chunks[place + 1])

    def _too_many(self, pieces: Sequence[str]) -> bool:
        """Whether a word has more pieces than are still read of the text; if not, they are from now on."""
        if self._pieces + len(pieces) > _READ_PIECES:
            return True
        self._pieces += len(pieces)
        return False

    def _counts_what(self, number: str, chunk: str, after: str) -> None:
        """That "3 apples and 5 pears" are no 5 apples and 3 pears."""
        word = after.strip(_EDGES).lower()
        thing = word.isalpha() and len(word) > _SHORT_UNIT and not lexicon.unit(word)
        if thing and chunk[-1].isdigit() and word not in lexicon.FUNCTION_WORDS and not _time(word):
            self._counts.append(f"{number} {little_words.stem(word)}")

    def _short_unit(self, chunk: str) -> None:
        """A letter or two that is a unit only behind a number; longer ones are read as words."""
        word = chunk.strip(_EDGES)
        lower = word.lower()
        if lower in ("in", "a.m.", "p.m.", "am", "pm"):
            return
        if word in lexicon.CASED_AFTER_NUMBERS or lower in lexicon.AFTER_NUMBERS:
            self.found["units"].append(lexicon.unit_after(word))
        elif len(word) <= _SHORT_UNIT and word.isalpha() and word[1:] != lower[1:] and not lexicon.unit(word):
            self.found["units"].append(word)

    def _unit_after(self, part: str) -> None:
        lower = part.lower()
        if lower in ("am", "pm"):
            self.found["dates"].append(lower)
        elif lower == "k":
            self.found["numbers"][-1] += "000"
        else:
            unit = lexicon.unit_after(part) or lexicon.unit(part)
            self._unit(unit) if unit else self.found["code"].append(part)

    def _code(self, word: str) -> None:
        self.found["code"].append(word)
        self.words.append(word)

    def _number(self, value: str) -> None:
        self.found["numbers"].append(value)

    def _unit(self, unit: str) -> None:
        self.found["units"].append(unit)
        if unit.isalpha():
            self.words.append(unit)

    def _word(self, word: str, starts: bool, chunks: Sequence[str], place: int) -> None:
        if not word:
            return
        lower = word.lower()
        if not self._number_word(lower, chunks, place) and not self._marked(lower, word, chunks, place):
            capital = word[0].isupper() and not starts and not self._shouted and lower != "i"
            if _is_letter(word, capital, chunks, place):
                self.found["names"].append(word)
            else:
                self._plain_word(lower, capital)
        self._asks(lower, chunks, place)
        self._poles |= lexicon.OPPOSITES.get(lower, 0)

    def _number_word(self, word: str, chunks: Sequence[str], place: int) -> bool:
        """Reads "two hundred and five", "third" or "half"; True if the word was one of those."""
        numbers = self.found["numbers"]
        after = _bare(chunks, place + 1)
        if word in lexicon.CARDINALS:
            if word == "one" and not (after in lexicon.UNITS or after in lexicon.SCALES):
                return True
            value, before = lexicon.CARDINALS[word], _bare(chunks, place - 1)
            joins = before in lexicon.CARDINALS or before in lexicon.SCALES
            joins = joins or (before == "and" and _bare(chunks, place - 2) in lexicon.SCALES)
            if joins and numbers and _counts(numbers[-1]):
                numbers[-1] = str(int(numbers[-1]) + value)
            else:
                numbers.append(str(value))
        elif word in lexicon.SCALES:
            last = numbers[-1] if numbers and _bare(chunks, place - 1) not in ("", "a") else ""
            if _counts(last):
                numbers[-1] = str(int(last) * lexicon.SCALES[word])
            elif last:
                numbers[-1] = f"{last}x{lexicon.SCALES[word]}"
            else:
                numbers.append(str(lexicon.SCALES[word]))
        elif word in lexicon.ORDINALS and not (word == "second" and _is_time(chunks, place)):
            numbers.append(f"{lexicon.ORDINALS[word]}th")
        elif word in lexicon.AMOUNTS and after not in lexicon.TIMES:
            numbers.append(lexicon.AMOUNTS[word])
        else:
            return False
        return True

    def _marked(self, lower: str, word: str, chunks: Sequence[str], place: int) -> bool:
        """Reads units, dates, negations and tasks; True if the word was one of those."""
        if lower in lexicon.DATES and not _is_verb(lower, word, chunks, place):
            self.found["dates"].append(lexicon.DATES[lower])
        elif self._asks_which_time(lower, chunks, place):
            return lower in lexicon.TIMES
        elif unit := lexicon.unit(word):
            self._unit(unit)
        elif lower in lexicon.NEGATIONS:
            self.found["negation"].append(lexicon.NEGATIONS[lower])
        elif lower in lexicon.TASKS:
            self.found["task"].append(lexicon.TASKS[lower])
            self.words.append(lower)
        else:
            if lower in lexicon.NEXT_TO and _time(_bare(chunks, place + 1)):
                self.found["dates"].append(lower)
                return True
            return False
        return True

    def _asks_which_time(self, lower: str, chunks: Sequence[str], place: int) -> bool:
        """Whether it is the first to say what is asked for: the year is no day."""
        which = _WHICH_TIME.get(lower)
        if which is None or self._question in _WHICH_TIME.values():
            return False
        if _bare(chunks, place - 1) not in ("what", "which"):
            return False
        self._question = which
        return True

    def _plain_word(self, word: str, capital: bool) -> None:
        known = self._lookup(word)
        if (capital and word not in lexicon.FUNCTION_WORDS) or not known or known & NAME:
            self.found["names"].append(word)
        if known & NEGATIVE:
            self.found["negation"].append("not")
        self.words.append(word)

    def _asks(self, word: str, chunks: Sequence[str], place: int) -> None:
        """The first question word decides; "what" and "which" ask for anything."""
        if self._question:
            return
        if word in ("what", "which"):
            self._question = 255
        elif word in lexicon.QUESTIONS:
            self._question = _KINDS[lexicon.QUESTIONS[word]]
            after = _bare(chunks, place + 1)
            if self._question == _HOW and after in ("many", "much"):
                self._question = _LONG if _bare(chunks, place + 2) in lexicon.UNITS else _MANY
            elif self._question == _HOW and after in _SPANS:
                self._question = _LONG
            elif self._question == _WHO:
                self._question = _who(_bare(chunks, place - 1), word, after, _bare(chunks, place + 2))
        elif word in lexicon.AUXILIARIES and place == 0 and _bare(chunks, 1) != "you":
            self._question = _WHETHER


def facts(text: str, lookup: Lookup) -> bytes:
    """The facts of a text (FACTS_BYTES,); any text is fine, the empty one included."""
    return Marks(text, lookup).facts


def difference(a: bytes, b: bytes) -> str:
    """The first guard on which the facts of two texts differ; "" if there is none.

    Facts of another size come from another version and agree with nothing: "version".
    """
    if a == b:
        return ""
    if len(a) != FACTS_BYTES or len(b) != FACTS_BYTES:
        return "version"
    for place, guard in enumerate(_EQUAL):
        start = place * _DIGEST
        if a[start : start + _DIGEST] != b[start : start + _DIGEST]:
            return guard
    if _asks_another(a[_QUESTION], b[_QUESTION]):
        return "question"
    if guard := little_words.difference(a[_SAID:_BAG], b[_SAID:_BAG]):
        return guard
    if a[_BAG:_ORDER] == b[_BAG:_ORDER]:
        if little_words.other_roles(a[_SAID:_BAG], b[_SAID:_BAG]):
            return "roles"
        ways = _other_way(a[_ORDER:_COUNTS], b[_ORDER:_COUNTS])
        counts = _other_way(a[_COUNTS:_LINKS], b[_COUNTS:_LINKS])
        if ways or counts or little_words.turned(a[_LINKS:_POLES], b[_LINKS:_POLES]):
            return "order"
    return "opposites" if _opposed(a[_POLES:], b[_POLES:]) else ""


def shared(facts: bytes) -> bytes:
    """What is the same for all facts that do not differ from these: they need not be looked for elsewhere."""
    return facts[:_QUESTION]


def _asks_another(a: int, b: int) -> bool:
    """What is no question, or one for anything, contradicts none."""
    if a in _WHOS and b in _WHOS and _WHO in (a, b):
        return False
    if a in _WHENS and b in _WHENS and _WHEN in (a, b):
        return False
    return a != b and a not in (0, 255) and b not in (0, 255)


def _who(before: str, word: str, after: str, later: str) -> int:
    """Whether who does it is asked, or to whom it is done; `_WHO` where that is not plain."""
    if before == "by":
        return _WHO_DOES
    if word in ("whom", "whose") or not after:
        return _WHO_IS_DONE_TO if word == "whom" else _WHO
    if after in _DONE_TO or (after in lexicon.AUXILIARIES and later in _SUBJECTS):
        return _WHO_IS_DONE_TO
    return _WHO if after in lexicon.AUXILIARIES or after in lexicon.FUNCTION_WORDS else _WHO_DOES


def _other_way(a: bytes, b: bytes) -> bool:
    """Whether things go elsewhere in the one than in the other; one that does not say so contradicts none."""
    return a != b and _NOTHING not in (a, b)


def _opposed(a: bytes, b: bytes) -> bool:
    """Whether both stand on some axis, and not on the same side of it."""
    one, other = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    both = (one | one >> 1) & (other | other >> 1) & _FIRST_SIDES
    return bool((one ^ other) & (both | both << 1))


def _digest(marks: Iterable[str]) -> bytes:
    joined = "\0".join(marks)
    if not joined:
        return _NOTHING
    return blake2b(joined.encode("utf-8", "replace"), digest_size=_DIGEST).digest()


def _next_content(chunks: Sequence[str], place: int) -> str:
    after = (_bare(chunks, later) for later in range(place + 1, len(chunks)))
    return next((word for word in after if word not in lexicon.FUNCTION_WORDS), "")


def _is_compound(word: str) -> bool:
    """Whether it is such a number as "twenty-five"."""
    tens, _, ones = word.partition("-")
    return lexicon.CARDINALS.get(tens, 0) >= 20 and 0 < lexicon.CARDINALS.get(ones, 0) < 10


def _is_letter(word: str, capital: bool, chunks: Sequence[str], place: int) -> bool:
    """Whether a word stands for itself: one letter, or what is no little word in capitals."""
    if len(word) > 1:
        return capital and word in _ACRONYMS
    if word not in ("a", "A"):
        return capital
    after = _bare(chunks, place + 1)
    noun = chunks[place][-1].isalpha() and after not in _LETTER_BEFORE and any(map(str.isalnum, after))
    return capital or not noun


def _is_operator(chunks: Sequence[str], place: int) -> bool:
    """Whether a sign to reckon with stands there."""
    sign = chunks[place].strip("\"'.,;:?") if 0 <= place < len(chunks) else ""
    return sign in _OPERATORS or (sign == "-" and _between_numbers(chunks, place))


def _counts(number: str) -> bool:
    """Whether a number word can go on with it."""
    return number.isdecimal() and len(number) <= _LONGEST_COUNT


def _plain(number: str) -> str:
    """Without thousands' commas and leading zeros; of versions, 3.10 is no 3.1."""
    whole, point, rest = number.replace(",", "").partition(".")
    return (whole.lstrip("0") or "0") + point + rest


def _bare(chunks: Sequence[str], place: int) -> str:
    """A word without its marks, for who stands beside it; a row of letters that is no word stays as it is."""
    chunk = chunks[place] if 0 <= place < len(chunks) else ""
    return chunk if len(chunk) > _LONGEST_WORD else chunk.strip(_EDGES).lower()


def _time(word: str) -> bool:
    return word in lexicon.TIMES or word in lexicon.DATES


def _is_time(chunks: Sequence[str], place: int) -> bool:
    """Whether "second" is a part of a minute."""
    before = _bare(chunks, place - 1)
    return before in ("a", "per", "each", "every", "half", "one") or before.isdigit()


def _is_verb(lower: str, word: str, chunks: Sequence[str], place: int) -> bool:
    """Whether "may", "march" or a short form is no month and no day here."""
    if lower in ("may", "march", "ad"):
        near = (_bare(chunks, place - 1), _bare(chunks, place + 1))
        dated = any(one[:1].isdigit() for one in near) or near[0] in (
            "in",
            "of",
            "since",
            "until",
            "by",
            "last",
            "next",
        )
        return not (dated or (word[0].isupper() and place > 0))
    if lower not in ("mar", "dec", "sat", "sun", "mon", "wed", "sep", "jan", "am"):
        return False
    before = _bare(chunks, place - 1)
    return not (word[0].isupper() or before[:1].isdigit() or before in lexicon.CARDINALS)


def _between_numbers(chunks: Sequence[str], place: int) -> bool:
    return _bare(chunks, place - 1)[-1:].isdigit() and _bare(chunks, place + 1)[:1].isdigit()
