"""Families that need knowledge: Roman numerals, clock and calendar, units, number words, elements."""

from __future__ import annotations

from random import Random

from headgate.worker.backends.builtin.worksheets.sheet import MAX_QUESTION_BYTES, Family, shapes

_ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)


def roman(number: int) -> str:
    """The Roman numeral of 1 to 3999."""
    text = ""
    for value, letters in _ROMAN:
        count, number = divmod(number, value)
        text += letters * count
    return text


_ROMAN_RANGES = ((1, 999), (1000, 1999), (2000, 3999))


def _roman(rng: Random, level: int) -> tuple[str, str]:
    if level == 3:
        first, second = rng.randint(1, 99), rng.randint(1, 99)
        return f"{roman(first)} + {roman(second)} as a number", str(first + second)
    number = rng.randint(*_ROMAN_RANGES[level])
    if rng.random() < 0.5:
        return rng.choice(("{} as a number", "The value of {}?")).format(roman(number)), str(number)
    return rng.choice(("{} in Roman numerals", "Write {} in Roman")).format(number), roman(number)


_MONTHS = {
    "Jan": 31,
    "Feb": 28,
    "Mar": 31,
    "Apr": 30,
    "May": 31,
    "Jun": 30,
    "Jul": 31,
    "Aug": 31,
    "Sep": 30,
    "Oct": 31,
    "Nov": 30,
    "Dec": 31,
}


def _clock(rng: Random, offsets: tuple[int, ...]) -> tuple[str, str]:
    minutes, offset = rng.randrange(24 * 60), rng.choice(offsets)
    end = (minutes + offset) % (24 * 60)
    shift = f"{offset // 60}:{offset % 60:02}"
    return f"{minutes // 60:02}:{minutes % 60:02} plus {shift} h?", f"{end // 60:02}:{end % 60:02}"


def _calendar(rng: Random) -> tuple[str, str]:
    names = tuple(_MONTHS)
    month, offset = rng.randrange(12), rng.choice(range(3, 28))
    day = rng.randint(1, _MONTHS[names[month]])
    end = day + offset
    if end > _MONTHS[names[month]]:
        end, follows = end - _MONTHS[names[month]], (month + 1) % 12
    else:
        follows = month
    return f"{day} {names[month]} plus {offset} days?", f"{end} {names[follows]}"


_CLOCK_OFFSETS = (tuple(range(60, 720, 60)), tuple(range(30, 390, 60)), tuple(range(5, 120, 5)))


def _date(rng: Random, level: int) -> tuple[str, str]:
    """Whole hours (level 0), half hours (1), five minutes and their multiples (2), days of the month (3)."""
    return _clock(rng, _CLOCK_OFFSETS[level]) if level < 3 else _calendar(rng)


_TIMES_THOUSAND = (("km", "m"), ("kg", "g"), ("t", "kg"), ("l", "ml"), ("m", "mm"), ("kW", "W"))
_COUNTED_TOGETHER = (("m", "cm", 100), ("h", "min", 60), ("min", "s", 60))


def _unit(rng: Random, level: int) -> tuple[str, str]:
    """Whole thousands (level 0) and thousandths (1) of a unit; two units made one (2), one made two (3)."""
    if level == 0:
        great, small = rng.choice(_TIMES_THOUSAND)
        amount = rng.randint(2, 999)
        return f"{amount} {great} in {small}?", f"{amount * 1000}"
    if level == 1:
        great, small = rng.choice(_TIMES_THOUSAND)
        amount = rng.randint(101, 9999)
        return f"{amount} {small} in {great}?", f"{amount / 1000:.3f}"
    great, small, factor = rng.choice(_COUNTED_TOGETHER)
    amount, rest = rng.randint(2, 40), rng.randint(1, factor - 1)
    apart, together = f"{amount} {great} {rest} {small}", amount * factor + rest
    if level == 2:
        return f"{apart} in {small}?", str(together)
    return f"{together} {small} in {great} and {small}?", apart


_ONES = (
    "",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_words(number: int) -> str:
    """1 to 999,999 in English words, without "and" or hyphens."""
    if number >= 1000:
        return f"{number_words(number // 1000)} thousand {number_words(number % 1000)}".rstrip()
    if number >= 100:
        return f"{_ONES[number // 100]} hundred {number_words(number % 100)}".rstrip()
    if number >= 20:
        return f"{_TENS[number // 10]} {_ONES[number % 10]}".rstrip()
    return _ONES[number]


_WORDS_RANGES = ((100, 2999), (1000, 9999), (2000, 19_999), (10_000, 99_999))


def _words(rng: Random, level: int) -> tuple[str, str]:
    number = rng.randint(*_WORDS_RANGES[level])
    text = number_words(number)
    if rng.random() < 0.5 and len(text) + len(" in digits") <= MAX_QUESTION_BYTES:
        return f"{text} in digits", str(number)
    return f"{number} in words", text


_ELEMENT_TABLE = """
hydrogen:H helium:He lithium:Li beryllium:Be boron:B carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne
sodium:Na magnesium:Mg aluminium:Al silicon:Si phosphorus:P sulfur:S chlorine:Cl argon:Ar potassium:K
calcium:Ca scandium:Sc titanium:Ti vanadium:V chromium:Cr manganese:Mn iron:Fe cobalt:Co nickel:Ni copper:Cu
zinc:Zn gallium:Ga germanium:Ge arsenic:As selenium:Se bromine:Br krypton:Kr rubidium:Rb strontium:Sr
yttrium:Y zirconium:Zr niobium:Nb molybdenum:Mo technetium:Tc ruthenium:Ru rhodium:Rh palladium:Pd silver:Ag
cadmium:Cd indium:In tin:Sn antimony:Sb tellurium:Te iodine:I xenon:Xe caesium:Cs barium:Ba lanthanum:La
cerium:Ce praseodymium:Pr neodymium:Nd promethium:Pm samarium:Sm europium:Eu gadolinium:Gd terbium:Tb
dysprosium:Dy holmium:Ho erbium:Er thulium:Tm ytterbium:Yb lutetium:Lu hafnium:Hf tantalum:Ta tungsten:W
rhenium:Re osmium:Os iridium:Ir platinum:Pt gold:Au mercury:Hg thallium:Tl lead:Pb bismuth:Bi polonium:Po
astatine:At radon:Rn francium:Fr radium:Ra actinium:Ac thorium:Th protactinium:Pa uranium:U neptunium:Np
plutonium:Pu americium:Am curium:Cm berkelium:Bk californium:Cf einsteinium:Es fermium:Fm mendelevium:Md
nobelium:No lawrencium:Lr
"""
_ELEMENTS = dict(pair.split(":") for pair in _ELEMENT_TABLE.split())
_ELEMENT_NAMES = tuple(_ELEMENTS)


def _elem(rng: Random, level: int) -> tuple[str, str]:
    """Symbols of 2 or 3 elements (levels 0 and 1), names of 2 or 3 symbols (2 and 3)."""
    names = rng.sample(_ELEMENT_NAMES, (2, 3, 2, 3)[level])
    if level >= 2:
        return f"Elements {' '.join(_ELEMENTS[name] for name in names)}?", " ".join(names)
    question = f"Symbols of {' '.join(names)}?"
    if len(question) > MAX_QUESTION_BYTES:
        return _elem(rng, level)
    return question, " ".join(_ELEMENTS[name] for name in names)


_NUMBER_WORD = f"(?:{'|'.join(filter(None, (*_ONES, *_TENS, 'hundred', 'thousand')))})"
_UNIT = "(?:km|m|cm|mm|kg|g|t|l|ml|kW|W|h|min|s)"

WORLD = (
    Family(
        "roman",
        "Roman numerals read, written and added",
        _roman,
        shapes(
            r"[MDCLXVI]+ \+ [MDCLXVI]+ as a number",
            r"[MDCLXVI]+ as a number",
            r"The value of [MDCLXVI]+\?",
            r"\d+ in Roman numerals",
            r"Write \d+ in Roman",
        ),
    ),
    Family(
        "date",
        "hours and minutes on the clock, days of the month",
        _date,
        shapes(
            r"\d\d:\d\d plus \d+:\d\d h\?",
            rf"\d+ (?:{'|'.join(_MONTHS)}) plus \d+ days\?",
        ),
    ),
    Family(
        "unit",
        "an amount in another unit",
        _unit,
        shapes(
            rf"\d+ {_UNIT} in {_UNIT}\?",
            rf"\d+ {_UNIT} \d+ {_UNIT} in {_UNIT}\?",
            rf"\d+ {_UNIT} in {_UNIT} and {_UNIT}\?",
        ),
    ),
    Family(
        "words",
        "numbers to English words and back",
        _words,
        shapes(rf"{_NUMBER_WORD}(?: {_NUMBER_WORD})* in digits", r"\d+ in words"),
        speciality=True,
    ),
    Family(
        "elem",
        "symbols and names of chemical elements",
        _elem,
        shapes(r"Symbols of [a-z]+(?: [a-z]+)*\?", r"Elements [A-Z][a-z]?(?: [A-Z][a-z]?)*\?"),
        speciality=True,
    ),
)
