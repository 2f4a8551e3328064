"""What a pool gives for what it costs: ours, a rival's under the same rule, and the most there is.

Whoever has a p_correct and an expected cost for every query and model can choose by the same rule: the model
of highest p_correct - λ · cost. As λ rises from nothing, mean cost falls from that of the best answers money
can buy to that of the cheapest model; what is bought on the way is the curve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline import curve
from headgate.router.offline.curve import Interval

PLACES = 21
"""Budgets that two curves are compared at."""
LAMBDAS = (0.0, *np.geomspace(1e-4, 1e2, 400).tolist())

_Array = NDArray[np.float64]
_Rows = NDArray[np.intp]


def choices(value: _Array, cost: _Array) -> _Rows:
    """Index of the model that each of LAMBDAS chooses, (n, L); `value` and `cost` are (n, M).

    Of equal models the cheaper wins.
    """
    return np.stack([_best(value - lam * cost, cost) for lam in LAMBDAS], axis=1)


def _best(values: _Array, cost: _Array) -> _Rows:
    best = values >= values.max(axis=1, keepdims=True) - 1e-12
    return np.asarray(np.where(best, cost, np.inf).argmin(axis=1))


def path(made: _Rows, table: _Array) -> _Array:
    """Mean over the queries of a table (n, M) under every λ, (L,)."""
    return np.asarray(np.take_along_axis(table, made, axis=1).mean(axis=0))


def bought(made: _Rows, score: _Array, cost: _Array, budgets: _Array) -> _Array:
    """Mean quality at mean costs `budgets` (B,), between two λ by a mix of both.

    A budget above what the curve ever spends buys what its dear end does, one below what its cheap end does.
    """
    spent, quality = path(made, cost), path(made, score)
    order = np.argsort(spent, kind="stable")
    return np.interp(budgets, spent[order], quality[order])


def budgets(cost: _Array) -> _Array:
    """(PLACES,) even steps from the cheapest model's mean cost to the dearest one's; `cost` is (n, M)."""
    means = cost.mean(axis=0)
    return np.linspace(means.min(), means.max(), PLACES)


def ahead(ours: _Rows, theirs: _Rows, score: _Array, cost: _Array, seed: int) -> list[Interval]:
    """Quality of ours minus theirs at every one of the budgets, the same queries drawn for both."""
    steps, n = budgets(cost), len(score)
    draws = np.random.default_rng(seed).integers(0, n, (curve.DRAWS // 2, n))

    def difference(rows: _Rows) -> _Array:
        drawn = [bought(one[rows], score[rows], cost[rows], steps) for one in (ours, theirs)]
        return drawn[0] - drawn[1]

    drawn = np.stack([difference(rows) for rows in draws])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return [Interval(*map(float, one)) for one in zip(difference(np.arange(n)), low, high, strict=True)]


def most(value: _Array, cost: _Array, budgets: _Array) -> _Array:
    """The highest mean `value` that any choice of models can have for each mean cost of `budgets` (B,).

    An upper bound by Lagrangian duality, reached up to one query's share: no search through all M^n choices
    can find more. `value` and `cost` are (n, M).
    """
    lambdas = _fine(cost)
    best = np.array([(value - lam * cost).max(axis=1).mean() for lam in lambdas])
    return np.asarray((best + np.multiply.outer(budgets, lambdas)).min(axis=1))


def _fine(cost: _Array) -> _Array:
    spread = max(float(np.ptp(cost, axis=1).mean()), 1e-12)
    return np.concatenate(((0.0,), np.geomspace(1e-4, 1e3, 2000) / spread))
