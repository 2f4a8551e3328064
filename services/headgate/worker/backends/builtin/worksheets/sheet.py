"""What a worksheet and a family of worksheets are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LEVELS = 4
MAX_QUESTION_BYTES = 64
MAX_ANSWER_BYTES = 200


@dataclass(frozen=True, slots=True)
class Worksheet:
    """One checkable text task.

    `question` is at most 64 bytes and `answer` 1 to 200 bytes of printable ASCII, each one line;
    `level` is 0 (easiest) to 3.
    """

    family: str
    level: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of task: how its questions are made and how they are known again.

    `make(rng, level)` returns (question, answer). `shapes` match every question of the family, whole,
    and of no other family.
    """

    name: str
    about: str
    make: Callable[[Random, int], tuple[str, str]]
    shapes: tuple[re.Pattern[str], ...]
    speciality: bool = False

    def recognises(self, text: str) -> bool:
        """Whether the whole text has the shape of one of the family's questions."""
        return any(shape.fullmatch(text) for shape in self.shapes)


def shapes(*patterns: str) -> tuple[re.Pattern[str], ...]:
    """Patterns for `Family.shapes`, ASCII only."""
    return tuple(re.compile(pattern, re.ASCII) for pattern in patterns)
