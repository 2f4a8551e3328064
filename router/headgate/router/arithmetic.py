"""Do the equations in a text hold? The plainest check of a draft that reckons.

An equation is a run of numbers, the four operations and parentheses, then `=` and a number, as in
"3 * (4 + 1) = 15". Dollars, percent, thousands' commas and LaTeX's \\times, \\div and \\cdot are read as
people do. What is none, such as "x + 1 = 3", is passed over.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator

_WORDS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "×": "*", "·": "*", "÷": "/", "−": "-", "%": "/100"}
_WORD = re.compile("|".join(map(re.escape, _WORDS)))
_DECORATION = re.compile(r"(?<=\d),(?=\d{3}\b)|[$\\]")
_EQUATION = re.compile(
    r"([\d.+*/() \t-]{3,80})=[ \t]*(-?(?:\d++(?:\.\d*+)?+|\.\d++))(?!\.*+[ \t]*[-+*(])(?!/(?!100\b))(/100)?"
)
_PART = re.compile(r"\d+\.?\d*|\.\d+|[-+*/()]")
_REACH = 0.011
"""Relative, or absolute near 0: people round to two places."""

_OPERATIONS: dict[str, tuple[int, Callable[[float, float], float]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.truediv),
}


def equations(text: str) -> tuple[int, int]:
    """How many equations of the text hold, and how many do not."""
    plain = _DECORATION.sub("", _WORD.sub(lambda word: _WORDS[word[0]], text))
    verdicts = [held for held in map(_holds, _EQUATION.finditer(plain)) if held is not None]
    return sum(verdicts), len(verdicts) - sum(verdicts)


def _holds(found: re.Match[str]) -> bool | None:
    """Whether both sides are equal; None where the left one is nothing to work out."""
    parts = _PART.findall(found[1])
    if not any(part in _OPERATIONS for part in parts[1:]):
        return None
    try:
        value = _value(parts)
    except (ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    said = float(found[2]) / (100 if found[3] else 1)
    return abs(value - said) <= _REACH * max(abs(value), 0.01 if found[3] else 1.0)


def _value(parts: list[str]) -> float:
    """By precedence climbing; ValueError for what is no expression."""
    left = iter([*parts, ""])
    value, after = _expression(next(left), left, 0)
    if after:
        raise ValueError(after)
    return value


def _expression(part: str, left: Iterator[str], least: int) -> tuple[float, str]:
    """The value from `part` on, of operations that bind at least so strongly, and the part after it."""
    value, part = _operand(part, left)
    while part in _OPERATIONS and _OPERATIONS[part][0] >= least:
        strength, operation = _OPERATIONS[part]
        right, part = _expression(next(left), left, strength + 1)
        value = operation(value, right)
    return value, part


def _operand(part: str, left: Iterator[str]) -> tuple[float, str]:
    if part == "-":
        value, part = _operand(next(left), left)
        return -value, part
    if part != "(":
        return float(part), next(left)
    value, part = _expression(next(left), left, 0)
    if part != ")":
        raise ValueError(part)
    return value, next(left)
