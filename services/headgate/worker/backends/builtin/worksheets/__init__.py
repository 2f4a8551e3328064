"""Worksheets: checkable text tasks of graded difficulty, made from a seed and marked exactly.

Every question belongs to one of three splits by a hash of its own text, so that what a model is trained
on, what the routing brain is trained on and what anything is measured on never share a question.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Container, Mapping
from itertools import accumulate
from random import Random
from typing import Literal

from headgate.worker.backends.builtin.worksheets.arithmetic import ARITHMETIC
from headgate.worker.backends.builtin.worksheets.sheet import (
    LEVELS,
    MAX_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    Family,
    Worksheet,
)
from headgate.worker.backends.builtin.worksheets.text import TEXT
from headgate.worker.backends.builtin.worksheets.world import WORLD

__all__ = [
    "FAMILIES",
    "LEVELS",
    "MAX_ANSWER_BYTES",
    "MAX_QUESTION_BYTES",
    "MIX",
    "SPLITS",
    "Family",
    "Split",
    "Worksheet",
    "balanced",
    "batch",
    "check",
    "draw",
    "draw_of",
    "recognise",
    "split_of",
]

Split = Literal["train", "router", "test"]
SPLITS: tuple[Split, ...] = ("train", "router", "test")

FAMILIES: dict[str, Family] = {family.name: family for family in (*ARITHMETIC, *TEXT, *WORLD)}

_SPECIALITY_SHARE = 0.07


def _mix() -> dict[str, float]:
    specialities = sum(family.speciality for family in FAMILIES.values())
    general = (1 - specialities * _SPECIALITY_SHARE) / (len(FAMILIES) - specialities)
    return {name: _SPECIALITY_SHARE if family.speciality else general for name, family in FAMILIES.items()}


MIX: Mapping[str, float] = _mix()
"""Share of each family in `draw` and `batch`; the shares sum to 1."""

_TWENTIETHS: dict[Split, range] = {"train": range(14), "router": range(14, 17), "test": range(17, 20)}
_TRIES = 400


def split_of(question: str) -> Split:
    """The split a question belongs to: train 70 %, router 15 %, test 15 %, by a hash of its text."""
    digest = hashlib.blake2b(question.encode(), digest_size=8).digest()
    twentieth = int.from_bytes(digest, "big") % 20
    return next(split for split in SPLITS if twentieth in _TWENTIETHS[split])


def draw(rng: Random, split: Split, mix: Mapping[str, float] = MIX) -> Worksheet:
    """One worksheet of a split: family by the weights of `mix`, level uniform."""
    family = rng.choices(tuple(mix), tuple(mix.values()))[0]
    return draw_of(rng, split, family, rng.randrange(LEVELS))


def draw_of(rng: Random, split: Split, family: str, level: int) -> Worksheet:
    """One worksheet of a split, family and level (0 to 3)."""
    make = FAMILIES[family].make
    for _ in range(_TRIES):
        question, answer = make(rng, level)
        if split_of(question) == split:
            return Worksheet(family, level, question, answer)
    raise ValueError(f"no question of family {family!r}, level {level} found in split {split!r}")


def batch(seed: int, n: int, split: Split = "test", exclude: Container[str] = ()) -> list[Worksheet]:
    """`n` worksheets with different questions, none in `exclude`; the same for the same arguments.

    Families have the shares of `MIX`. Raises ValueError when a family and level has no question left
    (from about 10,000 worksheets of the test split on).
    """
    rng = Random(seed)
    seen: set[str] = set()
    sheets: list[Worksheet] = []
    while len(sheets) < n:
        first = draw(rng, split)
        sheet = _unseen(rng, split, first, seen, exclude)
        seen.add(sheet.question)
        sheets.append(sheet)
    return sheets


def balanced(seed: int, n: int) -> list[Worksheet]:
    """As `batch` of the test split, but every family and level has its share of `n`, to within one.

    The expected shares are those of `MIX`, and chance moves them less: a figure over so few worksheets then
    says more about who answers them than about which were drawn.
    """
    rng = Random(seed)
    seen: set[str] = set()
    sheets: list[Worksheet] = []
    for family, level in _dealt(rng, n):
        sheet = _unseen(rng, "test", draw_of(rng, "test", family, level), seen, ())
        seen.add(sheet.question)
        sheets.append(sheet)
    rng.shuffle(sheets)
    return sheets


def _dealt(rng: Random, n: int) -> list[tuple[str, int]]:
    """`n` pairs of family and level by systematic sampling: equal steps through the shares."""
    cells = [(family, level) for family in MIX for level in range(LEVELS)]
    bounds = tuple(accumulate(MIX[family] / LEVELS for family, _ in cells))
    start = rng.random()
    # Sums of shares may miss 1 by a rounding error.
    return [cells[min(bisect_right(bounds, (start + i) / n), len(cells) - 1)] for i in range(n)]


def _unseen(
    rng: Random, split: Split, sheet: Worksheet, seen: set[str], exclude: Container[str]
) -> Worksheet:
    for _ in range(_TRIES):
        if sheet.question not in seen and sheet.question not in exclude:
            return sheet
        sheet = draw_of(rng, split, sheet.family, sheet.level)
    raise ValueError(
        f"family {sheet.family!r}, level {sheet.level} has no unused question left in split {split!r}"
    )


def check(worksheet: Worksheet, answer: str) -> float:
    """1.0 if `answer` is the worksheet's answer, whitespace around it aside, else 0.0."""
    return 1.0 if answer.strip() == worksheet.answer else 0.0


def recognise(text: str) -> str | None:
    """The family whose question shape the whole text has, or None if it is no worksheet."""
    question = text.strip()
    return next((name for name, family in FAMILIES.items() if family.recognises(question)), None)
