"""Families on whole numbers: sums, differences, products, comparison, order, sequences."""

from __future__ import annotations

from random import Random

from headgate.worker.backends.builtin.worksheets.sheet import Family, shapes


def _digits(rng: Random, low: int, high: int) -> int:
    """A number whose count of digits is uniform on low..high, and uniform among those."""
    length = rng.randint(low, high)
    return rng.randrange(10 ** (length - 1), 10**length)


_ADD_DIGITS = (((2, 2), (1, 1)), ((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 3), (3, 3)))


def _add(rng: Random, level: int) -> tuple[str, str]:
    first, second = (_digits(rng, *bounds) for bounds in _ADD_DIGITS[level])
    if rng.random() < 0.5:
        first, second = second, first
    return f"{first} + {second} = ?", str(first + second)


_SUB_DIGITS = (((2, 2), (1, 2)), ((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 3), (3, 3)))


def _sub(rng: Random, level: int) -> tuple[str, str]:
    small, large = sorted(_digits(rng, *bounds) for bounds in _SUB_DIGITS[level])
    return f"{large} - {small} = ?", str(large - small)


_MUL_RANGES = (((2, 9), (2, 99)), ((2, 5), (100, 499)), ((2, 9), (100, 499)), ((2, 9), (100, 999)))


def _mul(rng: Random, level: int) -> tuple[str, str]:
    first, second = (rng.randint(*bounds) for bounds in _MUL_RANGES[level])
    if rng.random() < 0.5:
        first, second = second, first
    return rng.choice(("{} x {} = ?", "Multiply {} by {}")).format(first, second), str(first * second)


def _cmp(rng: Random, level: int) -> tuple[str, str]:
    amount, length = ((2, 2), (3, 3), (3, 4), (4, 4))[level]
    leading = str(rng.randint(1, 9)) if level >= 2 else ""
    tail = length - len(leading)
    numbers: list[int] = []
    while len(numbers) < amount:
        number = int(leading + "".join(rng.choice("123456789") for _ in range(tail)))
        if number not in numbers:
            numbers.append(number)
    word, pick = rng.choice((("largest", max), ("smallest", min)))
    return f"The {word} of {', '.join(map(str, numbers))}?", str(pick(numbers))


def _sort(rng: Random, level: int) -> tuple[str, str]:
    if level < 2:
        letters = rng.sample("abcdefghijklmnopqrstuvwxyz", (3, 4)[level])
        rising = rng.random() < 0.5
        order = sorted(letters, reverse=not rising)
        return f"Sort {'up' if rising else 'down'}: {' '.join(letters)}", " ".join(order)
    numbers = rng.sample(range(10, 100), (3, 4)[level - 2])
    rising = rng.random() < 0.5
    order_of_numbers = sorted(numbers, reverse=not rising)
    question = f"Sort {'up' if rising else 'down'}: {' '.join(map(str, numbers))}"
    return question, " ".join(map(str, order_of_numbers))


_SEQ_STARTS = ((1, 399), (50, 399), (100, 499), (1, 499))
_SEQ_STEPS = ((1, 5), (2, 10), (11, 20), (1, 9))


def _seq(rng: Random, level: int) -> tuple[str, str]:
    start, step = rng.randint(*_SEQ_STARTS[level]), rng.randint(*_SEQ_STEPS[level])
    growth = 1 if level == 3 else 0
    if level in (1, 2) and rng.random() < 0.5:
        step = -step
    terms = [start + step * index + growth * index * (index - 1) // 2 for index in range(5)]
    shown = ", ".join(map(str, terms[:-1]))
    return f"{shown}, what comes next?", str(terms[-1])


_NUMBERS = r"-?\d+(?:, -?\d+)*"

ARITHMETIC = (
    Family("add", "sum of two numbers of 1 to 3 digits", _add, shapes(r"\d+ \+ \d+ = \?")),
    Family("sub", "difference of two numbers of 1 to 3 digits", _sub, shapes(r"\d+ - \d+ = \?")),
    Family(
        "mul",
        "product of a small and a larger number",
        _mul,
        shapes(r"\d+ x \d+ = \?", r"Multiply \d+ by \d+"),
    ),
    Family(
        "cmp",
        "largest or smallest of 2 to 4 numbers",
        _cmp,
        shapes(rf"The (?:largest|smallest) of {_NUMBERS}\?"),
    ),
    Family(
        "sort",
        "3 or 4 letters or two-digit numbers in order",
        _sort,
        shapes(r"Sort (?:up|down): [a-z](?: [a-z])+", r"Sort (?:up|down): \d+(?: \d+)+"),
    ),
    Family("seq", "the next term of a sequence of numbers", _seq, shapes(rf"{_NUMBERS}, what comes next\?")),
)
