"""The cost–quality curve of a pair of models, and what is read off it.

Queries go to the large model in the order of a score, the highest first; the curve is quality over the share
of large calls. PGR(share) is the part of the gap between small and large that is recovered, APGR its mean
over all shares, CPT(x) the least share with PGR ≥ x (Ong et al. 2024, arXiv 2406.18665, on every cut instead
of ten).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
"""Of a bootstrap."""

_Array = NDArray[np.float64]
_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % bootstrap interval over queries, predictions fixed."""

    value: float
    low: float
    high: float


def recovered(gain: _Array, score: _Array) -> _Array:
    """PGR (n + 1,) at 0, 1, … n large calls in the order of `gain` (n,); `score` (n, 2) of small and large.

    NaN where the large model is no better than the small one.
    """
    order = np.argsort(-gain, kind="stable")
    steps = score[order, 1] - score[order, 0]
    won = np.concatenate(((0.0,), np.cumsum(steps)))
    return won / won[-1] if won[-1] > 0 else np.full(len(won), np.nan)


def apgr(gain: _Array, score: _Array) -> float:
    """Mean PGR over all shares of large calls: 0.5 is chance."""
    return float(np.trapezoid(recovered(gain, score), dx=1 / len(gain)))


def cpt(gain: _Array, score: _Array, wanted: float) -> float:
    """Least share of large calls with PGR ≥ `wanted`; NaN as `recovered`."""
    pgr = recovered(gain, score)
    return float(np.argmax(pgr >= wanted) / len(gain)) if pgr[-1] == 1.0 else float("nan")


def auc(p: _Array, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive has the higher p, ties half; NaN if one class is empty."""
    _, places, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    hits, misses = positive.sum(), (~positive).sum()
    if not hits or not misses:
        return float("nan")
    return float((ranks[places][positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def interval(statistic: Callable[[_Rows], float], n: int, seed: int, draws: int = DRAWS) -> Interval:
    """Of a statistic of drawn rows."""
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)])
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return Interval(statistic(np.arange(n)), float(low), float(high))
