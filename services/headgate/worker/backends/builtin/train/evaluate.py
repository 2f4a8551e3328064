"""How good the pair is on fresh worksheets, and what a question costs it in CPU time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headgate.worker.backends.builtin.engine import Completion, Engine
from headgate.worker.backends.builtin.worksheets import Worksheet, check

USD_PER_CPU_HOUR = 0.04
"""What one core is taken to cost: about a shared virtual core at a large provider."""

_NANO = 10**9
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """Right answers out of n, with the 95 % Wilson interval."""

    right: int
    n: int

    @property
    def mean(self) -> float:
        """The share itself, NaN where n is 0."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % Wilson interval."""
        if not self.n:
            return 0.0, 1.0
        spread = _Z95**2 / self.n
        centre = (self.mean + spread / 2) / (1 + spread)
        half = _Z95 * math.sqrt(self.mean * (1 - self.mean) / self.n + spread / (4 * self.n)) / (1 + spread)
        return centre - half, centre + half


@dataclass(frozen=True, slots=True)
class Price:
    """CPU time of one question at batch 1, and the price per token that follows from it.

    `microseconds` is the median over runs of the mean per question; prices are nano-dollars per million
    tokens.
    """

    microseconds: float
    input_nanousd: int
    output_nanousd: int


def shares(sheets: Sequence[Worksheet], scores: Sequence[float]) -> dict[tuple[str, int], Share]:
    """Right answers by family and level."""
    marks: dict[tuple[str, int], list[float]] = {}
    for sheet, score in zip(sheets, scores, strict=True):
        marks.setdefault((sheet.family, sheet.level), []).append(score)
    return {cell: Share(int(sum(values)), len(values)) for cell, values in sorted(marks.items())}


def total(
    cells: Mapping[tuple[str, int], Share], family: str | None = None, level: int | None = None
) -> Share:
    """The sum of all cells, or of those of a family or a level."""
    chosen = [
        share for (name, step), share in cells.items() if family in (None, name) and level in (None, step)
    ]
    return Share(sum(share.right for share in chosen), sum(share.n for share in chosen))


def score(sheets: Sequence[Worksheet], completions: Sequence[Completion]) -> list[float]:
    """1.0 or 0.0 for each answer."""
    return [check(sheet, completion.text) for sheet, completion in zip(sheets, completions, strict=True)]


def prices(engines: Mapping[str, Engine], sheets: Sequence[Worksheet], runs: int = 5) -> dict[str, Price]:
    """Measures every engine on the same questions, one at a time; the engines take turns, run by run.

    Not question by question: each model has a process of its own, and a model that the other has just pushed
    out of the processor's caches is not what a worker runs.
    """
    seconds = {name: np.empty((runs, len(sheets))) for name in engines}
    tokens = {name: np.empty((len(sheets), 2)) for name in engines}
    for run in range(runs):
        for name, engine in engines.items():
            for row, sheet in enumerate(sheets):
                started = time.thread_time()
                completion = engine.answer(sheet.question)
                seconds[name][run, row] = time.thread_time() - started
                tokens[name][row] = completion.prompt_tokens, completion.completion_tokens
    return {name: _price(seconds[name], tokens[name]) for name in engines}


def _price(
    seconds: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    tokens: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> Price:
    """Least squares of a question's median time on its tokens, scaled to the mean time of a question."""
    mean = statistics.median(seconds.mean(axis=1))
    typical = np.median(seconds, axis=0)
    per_token = np.maximum(np.linalg.lstsq(tokens, typical, rcond=None)[0], 0.0)
    per_token *= mean / float((tokens @ per_token).mean())
    per_million = per_token * 1e6 * USD_PER_CPU_HOUR / 3600 * _NANO
    return Price(mean * 1e6, round(per_million[0]), round(per_million[1]))
