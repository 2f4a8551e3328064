"""What is kept of a benchmark: one `Run` for each side under each load in each round, and statistics over them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Run:
    """One side under one load in one round; `figures` carry their units in their names."""

    round: int
    side: str
    load: str
    figures: Mapping[str, float]


Round = Mapping[tuple[str, str], Mapping[str, float]]
"""The figures of one round by side and load."""
Formula = Callable[[Round, str], float]
"""What a target is about, in one round, beside that baseline: `bare` or `uvloop`."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and largest over the rounds."""

    median: float
    least: float
    largest: float


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table of targets."""

    row: str
    what: str
    must: float
    best: float
    formula: Formula
    better: Literal["lower", "higher"] = "lower"
    unit: str = "×"
    beside_uvloop: bool = False
    """Whether the bare chain on uvloop is a baseline too."""

    def reached(self, runs: Iterable[Run], base: str = "bare") -> Spread:
        """Over the rounds."""
        return spread([self.formula(one, base) for one in by_round(runs)])

    def met(self, value: float) -> bool:
        """Whether the value is as good as it must be."""
        return value <= self.must if self.better == "lower" else value >= self.must


def by_round(runs: Iterable[Run]) -> list[Round]:
    """The rounds in order."""
    rounds: dict[int, dict[tuple[str, str], Mapping[str, float]]] = {}
    for run in runs:
        rounds.setdefault(run.round, {})[run.side, run.load] = run.figures
    return [rounds[number] for number in sorted(rounds)]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; of at least one value."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


def ratio(figure: str, load: str, side: str = "gateway") -> Formula:
    """That figure of a side over the baseline's, under the same load."""
    return lambda found, base: found[side, load][figure] / found[base, load][figure]


def beside(figure: str, load: str, side: str, other: str) -> Formula:
    """That figure of a side over another side's, under the same load; whatever the baseline."""
    return lambda found, _base: found[side, load][figure] / found[other, load][figure]


def more(figure: str, load: str, side: str, other: str) -> Formula:
    """How much larger a side's figure is than another side's, under the same load."""
    return lambda found, _base: found[side, load][figure] - found[other, load][figure]


def within(figure: str, over: str, load: str, side: str = "gateway") -> Formula:
    """One figure of a run over another of the same run."""
    return lambda found, _base: found[side, load][figure] / found[side, load][over]


def alone(figure: str, load: str, side: str = "gateway") -> Formula:
    """A figure as it is."""
    return lambda found, _base: found[side, load][figure]
