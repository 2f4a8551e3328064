"""What a pair of models gives and loses as more queries go to the large one, with intervals over queries.

As in `curve`, queries go to the large model in the order of `gain` (n,), the highest first; `score` (n, 2) is
of small and large. A path has n + 1 places, for 0, 1, … n large calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline import curve
from headgate.router.offline.curve import Interval

DRAWS = 500
"""Of a band."""
_PLACES = 201
_ROUNDING = 1e-12

_Array = NDArray[np.float64]
Path = Callable[[_Array, _Array], _Array]
"""(gain, score) → (n + 1,)."""


@dataclass(frozen=True, slots=True)
class Band:
    """A path on even shares of large calls, from 0 to 1, and its 95 % bootstrap interval; all (k,)."""

    share: _Array
    value: _Array
    low: _Array
    high: _Array


def quality(gain: _Array, score: _Array) -> _Array:
    """Mean quality."""
    steps = (score[:, 1] - score[:, 0])[np.argsort(-gain, kind="stable")]
    won = np.concatenate(((0.0,), np.cumsum(steps)))
    return np.asarray(score[:, 0].mean() + won / len(gain))


def regret(gain: _Array, score: _Array) -> _Array:
    """Share of requests that the small model answers, and worse than the large one would have."""
    worse = (score[:, 0] < score[:, 1])[np.argsort(-gain, kind="stable")]
    avoided = np.concatenate(((0,), np.cumsum(worse)))
    return np.asarray((avoided[-1] - avoided) / len(gain))


def band(path: Path, gain: _Array, score: _Array, seed: int, draws: int = DRAWS) -> Band:
    """The path with its interval over queries, predictions fixed."""
    order = np.argsort(-gain, kind="stable")
    gain, score = gain[order], score[order]
    share, rng = np.linspace(0, 1, _PLACES), np.random.default_rng(seed)
    drawn = (np.sort(rng.integers(0, len(gain), len(gain))) for _ in range(draws))
    paths = np.stack([_evenly(path(gain[rows], score[rows]), share) for rows in drawn])
    low, high = np.quantile(paths, (0.025, 0.975), axis=0)
    return Band(share, _evenly(path(gain, score), share), low, high)


def _evenly(path: _Array, share: _Array) -> _Array:
    return np.interp(share, np.linspace(0, 1, len(path)), path)


def keeps(gain: _Array, score: _Array, level: float) -> float:
    """Least share of large calls whose mean quality is at least `level` of always calling large."""
    reached = quality(gain, score)
    return float(np.argmax(reached >= level * score[:, 1].mean() - _ROUNDING) / len(gain))


def keeps_within(gain: _Array, score: _Array, level: float, seed: int) -> Interval:
    """`keeps` with its interval."""
    return curve.interval(lambda rows: keeps(gain[rows], score[rows], level), len(gain), seed)


def keeps_by_chance(score: _Array, level: float) -> float:
    """Share of large calls that `level` takes if they are drawn by lot; in [0, 1]."""
    small, large = score.mean(axis=0)
    return float(np.clip((level * large - small) / (large - small), 0, 1)) if large > small else 0.0


def spared_within(gain: _Array, score: _Array, level: float, seed: int) -> Interval:
    """`keeps_by_chance` minus `keeps`, with its interval."""
    return curve.interval(
        lambda rows: keeps_by_chance(score[rows], level) - keeps(gain[rows], score[rows], level),
        len(gain), seed,
    )  # fmt: skip


def calls_for(gain: _Array, score: _Array, target: float) -> int:
    """Least number of large calls with a regret of at most `target`, at least 0."""
    return int(np.argmax(regret(gain, score) <= target))
