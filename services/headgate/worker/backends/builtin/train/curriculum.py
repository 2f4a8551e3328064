"""Which worksheets come next: hard cells often, a level only once the one below it is getting somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from headgate.worker.backends.builtin.worksheets import FAMILIES, LEVELS, Worksheet, draw_of

Cell = tuple[str, int]
CELLS: tuple[Cell, ...] = tuple((family, level) for family in FAMILIES for level in range(LEVELS))

_MEMORY = 0.97
_FLOOR = 0.25
_OPENS, _OPEN = 0.25, 0.65


@dataclass(slots=True)
class Curriculum:
    """Share of right answers per (family, level), as a moving average, and the mix that follows from it."""

    accuracy: dict[Cell, float] = field(default_factory=lambda: dict.fromkeys(CELLS, 0.0))

    def record(self, family: str, level: int, right: float) -> None:
        """Takes one training answer, 1.0 right or 0.0 wrong, into the moving average."""
        old = self.accuracy[family, level]
        self.accuracy[family, level] = _MEMORY * old + (1 - _MEMORY) * right

    def weights(self, emphasis: Mapping[str, float], all_open: bool) -> list[float]:
        """The share of each of `CELLS` in the mix, not normalised; `emphasis` multiplies that of a family."""
        return [
            emphasis.get(family, 1.0)
            * (_FLOOR + 1 - self.accuracy[family, level])
            * (1.0 if all_open else self._openness(family, level))
            for family, level in CELLS
        ]

    def _openness(self, family: str, level: int) -> float:
        if level == 0:
            return 1.0
        below = self.accuracy[family, level - 1]
        return min(1.0, max(0.02, (below - _OPENS) / (_OPEN - _OPENS)))

    def draw(self, rng: Random, count: int, emphasis: Mapping[str, float], all_open: bool) -> list[Worksheet]:
        """`count` worksheets of the training split in the present mix."""
        cells = rng.choices(CELLS, self.weights(emphasis, all_open), k=count)
        return [draw_of(rng, "train", family, level) for family, level in cells]

    def mean_by_level(self) -> list[float]:
        """Average accuracy of the families at each level."""
        return [
            sum(self.accuracy[family, level] for family in FAMILIES) / len(FAMILIES)
            for level in range(LEVELS)
        ]
