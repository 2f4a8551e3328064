"""Families on strings: reversing, counting, editing, looking up, logic, and the two with long answers."""

from __future__ import annotations

from random import Random

from headgate.worker.backends.builtin.worksheets.sheet import Family, shapes

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _string(rng: Random, low: int, high: int, alphabet: str = _LETTERS) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high)))


def _rev(rng: Random, level: int) -> tuple[str, str]:
    text = _string(rng, *((3, 4), (5, 6), (7, 9), (10, 13))[level])
    return f"Reverse {text}", text[::-1]


_COUNT_LENGTHS = ((2, 3), (3, 4), (4, 5), (5, 6))


def _count(rng: Random, level: int) -> tuple[str, str]:
    wanted, *others = rng.sample(_LETTERS, 3)
    text = _string(rng, *_COUNT_LENGTHS[level], alphabet=wanted + "".join(others))
    return f"How many {wanted} in {text}?", str(text.count(wanted))


def _edit(rng: Random, level: int) -> tuple[str, str]:
    """Replace a letter (level 0), remove one (1), double one (2), replace one in a longer string (3)."""
    old, new, *others = rng.sample(_LETTERS, 6)
    text = _string(
        rng, *((4, 5), (5, 7), (5, 7), (9, 12))[level], alphabet=old + "".join(others[: 2 + level])
    )
    if level == 1:
        text = others[0] + text
        return f"Remove {old} from {text}", text.replace(old, "")
    if level == 2:
        return f"Double each {old} in {text}", text.replace(old, old + old)
    return f"Replace {old} by {new} in {text}", text.replace(old, new)


_TABLE_KEY_LENGTHS = (1, 1, 2, 3)
_TABLE_ROWS = (2, 4, 4, 5)


def _table(rng: Random, level: int) -> tuple[str, str]:
    keys: list[str] = []
    while len(keys) < _TABLE_ROWS[level]:
        length = _TABLE_KEY_LENGTHS[level]
        key = _string(rng, length, length)
        if key not in keys:
            keys.append(key)
    cells = {key: rng.randint(10, 99) for key in keys}
    asked = rng.choice(keys)
    rows = " ".join(f"{key}={value}" for key, value in cells.items())
    return f"{rows} so {asked}=?", str(cells[asked])


_OPERATORS = {"and": lambda a, b: a and b, "or": lambda a, b: a or b, "xor": lambda a, b: a != b}


def _logic(rng: Random, level: int) -> tuple[str, str]:
    """Two variables (levels 0 and 1) or three joined from left to right; levels 1 and 3 also negate."""
    names = rng.sample(_LETTERS, (2, 2, 3, 3)[level])
    values = {name: rng.random() < 0.5 for name in names}
    facts = " ".join(f"{name}={'T' if value else 'F'}" for name, value in values.items())
    result, text = values[names[0]], names[0]
    for name in names[1:]:
        word = rng.choice(tuple(_OPERATORS))
        negated = level in (1, 3) and rng.random() < 0.5
        result = _OPERATORS[word](result, values[name] != negated)
        text += f" {word} {'not ' if negated else ''}{name}"
    return f"{facts}: {text}?", "T" if result else "F"


_ALPHABET = """
alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo
sierra tango uniform victor whiskey xray yankee zulu
"""
_SPELLED = {word[0]: word for word in _ALPHABET.split()}
_SPELL_LENGTHS = ((11, 12), (12, 14), (14, 16), (16, 18))
_LONG_ANSWER = range(60, 201)


def _spell(rng: Random, level: int) -> tuple[str, str]:
    """Different letters, each as its word of the spelling alphabet: 60 to 200 bytes of answer."""
    answer = ""
    while len(answer) not in _LONG_ANSWER:
        letters = rng.sample(_LETTERS, rng.randint(*_SPELL_LENGTHS[level]))
        answer = " ".join(_SPELLED[letter] for letter in letters)
    return f"Spell {''.join(letters)}", answer


_LADDER_STEPS = ((1, 2, 5, 10), (1, 2, 3, 4, 5), tuple(range(2, 11)), (*range(2, 13), 20, 25, 50))
_LADDER_TERMS = ((16, 20), (17, 22), (18, 24), (20, 28))


def _ladder(rng: Random, level: int) -> tuple[str, str]:
    """All the terms of an arithmetic progression: 60 to 200 bytes of answer."""
    answer = ""
    while len(answer) not in _LONG_ANSWER:
        start, step = rng.randint(1, 399), rng.choice(_LADDER_STEPS[level])
        terms = [start + step * index for index in range(rng.randint(*_LADDER_TERMS[level]))]
        answer = " ".join(map(str, terms))
    return f"Go from {terms[0]} to {terms[-1]} in steps of {step}", answer


_FACT = "[a-z]=[TF]"
_TERM = r"(?:not )?[a-z]"
_ROW = r"[a-z]{1,3}=\d\d"

TEXT = (
    Family("rev", "a string of 3 to 13 letters backwards", _rev, shapes(r"Reverse [a-z]+")),
    Family(
        "count", "how often a letter stands in a short string", _count, shapes(r"How many [a-z] in [a-z]+\?")
    ),
    Family(
        "edit",
        "a letter of a string replaced, removed or doubled",
        _edit,
        shapes(
            r"Remove [a-z] from [a-z]+", r"Double each [a-z] in [a-z]+", r"Replace [a-z] by [a-z] in [a-z]+"
        ),
    ),
    Family(
        "table",
        "one value looked up in 2 to 5 rows",
        _table,
        shapes(rf"{_ROW}(?: {_ROW})+ so [a-z]{{1,3}}=\?"),
    ),
    Family(
        "logic",
        "truth of 2 or 3 variables joined from left to right",
        _logic,
        shapes(rf"{_FACT}(?: {_FACT})+: [a-z](?: (?:and|or|xor) {_TERM})+\?"),
    ),
    Family(
        "spell",
        "11 to 18 letters in the spelling alphabet (60 to 200 bytes)",
        _spell,
        shapes(r"Spell [a-z]{11,18}"),
    ),
    Family(
        "ladder",
        "every term of an arithmetic progression (60 to 200 bytes)",
        _ladder,
        shapes(r"Go from \d+ to \d+ in steps of \d+"),
    ),
)
