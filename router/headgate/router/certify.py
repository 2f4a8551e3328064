"""Certificates: exact binomial bounds and fixed-sequence Learn-then-Test over λ.

The statement: with confidence 1-δ, at most α of covered requests are answered by another model than the
reference although the reference's answer would have been better (`regret`).

The test: λ walks a grid that was fixed before any of these labels was seen, from the safe end on. At each λ
the hypothesis "regret is more than α" is rejected if so few regrets would be that unlikely (probability ≤
δ). The walk ends at the first λ that is not rejected: because the order was fixed, no correction for the
number of λ is due and every λ before it is certified as well. Several levels α share δ equally, so all
certificates hold together.

A rate within α would still leave about half of all weeks above α. A *window* makes the statement one that
traffic can be held against: half of δ goes to the test of the rate, and the rate is tested against the lower
limit under which a window of that many requests keeps within α but for the other half of δ.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, fabs, lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

LEVELS = (0.01, 0.02, 0.03, 0.05, 0.10)
"""Risk targets that are tested, in this order."""

_ROUNDING = 1e-9
_TINY = 1e-300
_PRECISION = 1e-15
_MOST_TERMS = 10_000
_HALVINGS = 200


@dataclass(frozen=True, slots=True)
class Certified:
    """A level that holds for λ `grid[index]` and all before it: `regrets` of `n` queries at that λ."""

    level: float
    index: int
    regrets: int
    n: int
    delta: float
    """This level's share of the δ of the rate."""

    @property
    def bound(self) -> float:
        """Upper limit of the rate of regret at that λ, at most `level`."""
        return upper_bound(self.regrets, self.n, self.delta)


def fixed_sequence(
    regret: NDArray[np.bool_], levels: Sequence[float] = LEVELS, delta: float = 0.05, window: int = 0
) -> list[Certified]:
    """The levels that regret (n, G) supports: did query i regret under the g-th λ of the fixed grid?

    Each level is tested at δ / len(levels). A level whose safe end already fails is left out. With a `window`
    half of δ is kept for it, and a level then holds for the regret of that many requests.
    """
    n = len(regret)
    counts = regret.sum(axis=0)
    share = (delta / 2 if window else delta) / len(levels)
    certified: list[Certified] = []
    for level in levels:
        rate = sustainable_rate(level, window, delta / 2) if window else level
        passed = _walk(counts, n, rate, share)
        if passed:
            count = int(counts[passed - 1])
            certified.append(Certified(level, passed - 1, count, n, share))
    return certified


def sustainable_rate(level: float, window: int, delta: float) -> float:
    """The largest rate under which at most `level` of `window` requests regret, with probability ≥ 1-δ.

    It is the lower Clopper-Pearson limit of the first count that is too many.
    """
    most = int(level * window + _ROUNDING)
    if most >= window:
        return 1.0
    return 1.0 - upper_bound(window - most - 1, window, delta)


def _walk(counts: NDArray[np.intp], n: int, level: float, delta: float) -> int:
    """How many λ are certified before the first that is not."""
    failed = counts > most_regrets(n, level, delta)
    return int(failed.argmax()) if failed.any() else len(counts)


@lru_cache(maxsize=8192)
def most_regrets(n: int, level: float, delta: float) -> int:
    """Most regrets among n queries that still reject "regret is above `level`"; -1 if not even 0 do."""
    if n < 1:
        return -1
    return bisect_right(range(n), delta, key=lambda k: binomial_cdf(k, n, level)) - 1


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X ≤ k) for X ~ Binomial(n, p); 0 ≤ p ≤ 1."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return regularized_beta(n - k, k + 1, 1.0 - p)


def upper_bound(k: int, n: int, delta: float) -> float:
    """Clopper-Pearson: the largest rate under which at most k of n still has probability δ; 1 if k = n.

    ValueError unless 0 ≤ k ≤ n, n ≥ 1 and 0 < δ < 1.
    """
    if not (0 <= k <= n and n >= 1 and 0 < delta < 1):
        raise ValueError("a bound needs 0 <= k <= n, n >= 1 and 0 < delta < 1")
    if k == n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if binomial_cdf(k, n, middle) > delta else (low, middle)
    return high


def regularized_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) for a, b > 0 and 0 ≤ x ≤ 1: the continued fraction on the side where it converges fast."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by the modified Lentz method."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if fabs(c * d - 1.0) < _PRECISION:
            return value
    raise ArithmeticError("the incomplete beta function did not converge")


def _away_from_zero(number: float) -> float:
    return number if fabs(number) > _TINY else _TINY
