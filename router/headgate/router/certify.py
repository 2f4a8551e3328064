"""Certificates: fixed-sequence Learn-then-Test over λ, overall and per slice of the queries.

The statement: with confidence 1-δ, the mean loss of covered requests is at most α. Losses are
    regret         1 if the reference's answer would have been better than the one of another model, else 0
    graded regret  by how much it would have been better: max(0, score of the reference - score got)
    net            score of the reference - score got: better answers than the reference's pay for worse

The test: λ walks a grid that was fixed before any of these labels was seen, from the safe end on. At each λ
the hypothesis "the mean loss is more than α" is rejected if losses so small would be that unlikely
(probability ≤ δ): by the exact binomial test where losses are 0 or 1, else by a betting test. The walk ends
at the first λ that is not rejected: because the order was fixed, no correction for the number of λ is due and
every λ before it is certified as well. Several levels α share δ equally, so all certificates hold together;
so do slices. (Angelopoulos et al., Learn then test, Annals of Applied Statistics 19, 2025.)

A rate within α would still leave about half of all weeks above α. A *window* makes the statement one that
traffic can be held against: half of δ goes to the test of the rate, and the rate is tested against the lower
limit under which a window of that many requests keeps within α but for the other half of δ.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, fabs, lgamma, log, log1p
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headgate.router import betting

LEVELS = (0.01, 0.02, 0.03, 0.05, 0.10)
"""Risk targets that are tested, in this order."""

Test = Literal["binomial", "betting"]
"""Exact, for losses that are 0 or 1; or for any that are nowhere above 1."""

_ROUNDING = 1e-9
_TINY = 1e-300
_PRECISION = 1e-15
_MOST_TERMS = 10_000
_HALVINGS = 200
_MOST_LABELS = 10_000_000

_Losses = NDArray[np.bool_] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Certified:
    """A level that holds for λ `grid[index]` and all before it."""

    level: float
    index: int
    regrets: int
    """How many of the `n` queries lost anything at that λ."""
    n: int
    delta: float
    """This level's share of the δ of the rate."""
    loss: float
    """Mean loss of the `n` queries at that λ."""
    test: Test = "binomial"

    @property
    def bound(self) -> float:
        """Upper limit of the rate of regret at that λ, at most `level`; a betting test has only the level."""
        return upper_bound(self.regrets, self.n, self.delta) if self.test == "binomial" else self.level


def fixed_sequence(
    losses: _Losses,
    levels: Sequence[float] = LEVELS,
    delta: float = 0.05,
    window: int = 0,
    test: Test = "binomial",
) -> list[Certified]:
    """The levels that losses (n, G) support: what did query i lose under the g-th λ of the fixed grid?

    `binomial`: losses are bool, and what holds is "at most `level` of requests regret".
    `betting`: losses are floats of at most 1, in [0, 1] for graded regret or [-1, 1] for net, and what holds
    is "the mean loss is at most `level`": for net, "mean quality is at most `level` below always using the
    reference".

    Rows are independent draws. Each level is tested at δ / len(levels). A level whose safe end already fails
    is left out. With a `window` half of δ is kept for it, and a level then holds for the regret, or the mean
    loss, of that many requests.

    ValueError if losses are not of the test's kind, or a level of a betting test is not between 0 and 1.
    """
    _check(losses, test)
    share = _share(levels, delta, window)
    found = [
        _certified(losses, level, int(passed), share, test)
        for level, passed in zip(levels, _walks(losses, levels, share, window, delta / 2, test), strict=True)
        if passed
    ]
    return [_carried(one, found) for one in found]


def by_slice(
    losses: _Losses,
    slices: NDArray[np.integer[Any]],
    levels: Sequence[float] = LEVELS,
    delta: float = 0.05,
    window: int = 0,
    test: Test = "binomial",
) -> dict[int, list[Certified]]:
    """For each slice, the levels that its own rows of losses (n, G) support; `slices` (n,) names them.

    Slices share δ equally, so all certificates of all slices hold together (Bonferroni). One for all queries
    beside them would take a δ of its own. A slice with too few labels has an empty list. The slice of a query
    must not depend on its losses.

    ValueError as for `fixed_sequence`, or if there is not one slice per row.
    """
    if slices.shape != losses.shape[:1]:
        raise ValueError("slices name one slice for every row of the losses")
    names = np.unique(slices)
    share = delta / max(len(names), 1)
    return {int(one): fixed_sequence(losses[slices == one], levels, share, window, test) for one in names}


def in_every_slice(
    losses: _Losses,
    slices: NDArray[np.integer[Any]],
    levels: Sequence[float] = LEVELS,
    delta: float = 0.05,
    window: int = 0,
    test: Test = "binomial",
) -> list[Certified]:
    """The levels that hold in every slice at once, each up to the λ of the slice that reaches least far.

    ValueError as for `by_slice`.
    """
    found = by_slice(losses, slices, levels, delta, window, test).values()
    held = [{one.level: one for one in certified} for certified in found]
    everywhere = [level for level in levels if held and all(level in one for one in held)]
    return [_shortest([one[level] for one in held], losses) for level in everywhere]


def _shortest(found: Sequence[Certified], losses: _Losses) -> Certified:
    """What holds in all of them; what it rests on is counted over all of them."""
    least = min(found, key=lambda one: one.index)
    lost = losses[:, least.index]
    return replace(least, regrets=int((lost > 0).sum()), n=len(losses), loss=float(lost.mean()))


def reach(
    losses: NDArray[np.bool_],
    n: int,
    level: float,
    levels: Sequence[float] = LEVELS,
    delta: float = 0.05,
    window: int = 0,
) -> int:
    """How many λ `n` labels would certify at `level`, one of `levels`, if they lost as often as these (k, G).

    An outlook and no promise: it takes the rates of these losses for the true ones.
    """
    if not len(losses):
        return 0
    share = _share(levels, delta, window)
    rate = sustainable_rate(level, window, delta / 2) if window else level
    return _walk(np.floor(losses.mean(axis=0) * n + _ROUNDING), n, rate, share)


def _share(levels: Sequence[float], delta: float, window: int) -> float:
    """Of δ, for the test of one level."""
    return (delta / 2 if window else delta) / len(levels)


def sustainable_rate(level: float, window: int, delta: float) -> float:
    """The largest rate under which at most `level` of `window` requests regret, with probability ≥ 1-δ.

    It is the lower Clopper-Pearson limit of the first count that is too many.
    """
    most = int(level * window + _ROUNDING)
    if most >= window:
        return 1.0
    return 1.0 - upper_bound(window - most - 1, window, delta)


def _walks(
    losses: _Losses, levels: Sequence[float], share: float, window: int, kept: float, test: Test
) -> list[int]:
    """How many λ each level certifies before the first that it does not; `kept` is the window's part of δ."""
    if test == "betting":
        bends = [betting.bend(x, window, kept) if window else betting.Bend(0.0, x) for x in levels]
        ordered = betting.shuffled(losses.astype(np.float64))
        return [betting.walk(ordered, bent, share) if len(losses) else 0 for bent in bends]
    counts = losses.sum(axis=0)
    rates = [sustainable_rate(level, window, kept) if window else level for level in levels]
    return [_walk(counts, len(losses), rate, share) for rate in rates]


def _walk(counts: NDArray[Any], n: int, level: float, delta: float) -> int:
    failed = counts > most_regrets(n, level, delta)
    return int(failed.argmax()) if failed.any() else len(counts)


def _certified(losses: _Losses, level: float, passed: int, share: float, test: Test) -> Certified:
    last = losses[:, passed - 1]
    return Certified(level, passed - 1, int((last > 0).sum()), len(losses), share, float(last.mean()), test)


def _carried(one: Certified, found: Sequence[Certified]) -> Certified:
    """The best of what a level certifies and smaller ones do: what is within those is within it as well."""
    best = max((other for other in found if other.level <= one.level), key=lambda x: (x.index, x.level))
    return replace(best, level=one.level)


def _check(losses: _Losses, test: Test) -> None:
    if (losses.dtype == np.bool_) != (test == "binomial"):
        raise ValueError("a binomial test needs bool losses and a betting test needs float ones")
    if not (losses <= 1).all():
        raise ValueError("a loss is a number of at most 1")


@lru_cache(maxsize=8192)
def most_regrets(n: int, level: float, delta: float) -> int:
    """Most regrets among n queries that still reject "regret is above `level`"; -1 if not even 0 do."""
    if n < 1:
        return -1
    return bisect_right(range(n), delta, key=lambda k: binomial_cdf(k, n, level)) - 1


def least_n(level: float, delta: float) -> int:
    """The fewest queries, none of them with a regret, that reject "regret is above `level`".

    0 < level < 1 and 0 < δ < 1. ValueError if it takes more than ten million.
    """
    return _fewest(0, level, delta)


def _fewest(k: int, level: float, delta: float) -> int:
    """The fewest queries among which k regrets still reject "regret is above `level`"."""
    if binomial_cdf(k, _MOST_LABELS, level) > delta:
        raise ValueError("so small a difference takes more than ten million labels to certify")
    counts = range(k + 1, _MOST_LABELS + 1)
    return counts[bisect_left(counts, True, key=lambda n: binomial_cdf(k, n, level) <= delta)]


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
