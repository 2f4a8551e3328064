"""What routing costs in quality and saves in money, estimated from shadow samples of one's own traffic.

Only a share π of the requests is seen, and that share may change from day to day. Each seen request stands
for 1/π of them:

    Horvitz-Thompson   Σ y/π over the seen, divided by the number of all requests
    Hájek              Σ y/π over the seen, divided by Σ 1/π over the seen

Both are right in the mean whatever π was, where a plain mean of the seen is not. The intervals are about the
traffic that the requests are drawn from, not only about these requests. They are normal: trust them from some
dozens of values that are not 0 on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
ENOUGH = 30
"""Values other than 0 from which on the normal interval is near its 95 %."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over all requests with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Requests that were seen."""
    telling: int
    """Those of them whose value is not 0."""

    @property
    def sound(self) -> bool:
        """Whether there is enough to trust the interval."""
        return self.telling >= ENOUGH


def hajek(values: _Array, propensity: _Array) -> Estimate:
    """The mean of `values` (n,) over all requests, of which each seen one had its `propensity` (n,).

    ValueError unless n ≥ 2 and every propensity lies in (0, 1].
    """
    weight = 1.0 / _checked(values, propensity)
    mean = float(values @ weight / weight.sum())
    spread = weight * (values - mean) / weight.sum()
    return _estimate(mean, _corrected(spread), values)


def horvitz_thompson(values: _Array, propensity: _Array, requests: int) -> Estimate:
    """As `hajek`, where it is known how many requests there were, seen or not; ValueError if fewer than n."""
    weighted = values / _checked(values, propensity)
    if requests < len(values):
        raise ValueError("there are no fewer requests than were seen")
    mean = float(weighted.sum() / requests)
    squares = (weighted**2).sum() / requests - mean**2
    return _estimate(mean, squares / (requests - 1), values)


def _checked(values: _Array, propensity: _Array) -> _Array:
    fits = len(values) == len(propensity) >= 2
    if not (fits and np.all((propensity > 0) & (propensity <= 1))):
        raise ValueError("an estimate needs two values or more, each with a propensity above 0 and at most 1")
    return propensity


def _corrected(spread: _Array) -> float:
    """Variance of a sum of centred terms, with the factor for the estimated mean."""
    n = len(spread)
    return float((spread**2).sum() * n / (n - 1))


def _estimate(mean: float, variance: float, values: _Array) -> Estimate:
    margin = _Z * float(np.sqrt(max(variance, 0.0)))
    return Estimate(mean, mean - margin, mean + margin, len(values), int(np.count_nonzero(values)))
