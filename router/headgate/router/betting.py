"""The betting test: is the mean of losses that are nowhere above 1 within a level?

A player bets against "the mean loss is above `level`". On every query he stakes the same part of his
capital; he loses the stake at loss 1 and wins stake * level / (1 - level) at loss 0, in between in
proportion, and more at negative losses. While the hypothesis is true the game is not in his favour, so his
capital ever reaches 1/δ times its start with probability at most δ (Ville's inequality). When it does, the
hypothesis is rejected.

From Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024). Their
bets follow the variance seen so far. At a known n and level a constant stake, fixed before any loss is seen,
certified about as much on 0/1 losses and on net ones, less on graded ones of small variance, and is simpler
to check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, expm1, log, log1p

import numpy as np
from numpy.typing import NDArray

_SPREADING = np.uint32(2654435761)
_BLOCK = 64
"""Columns that are bet on at a time: bounds memory, and a walk that ends early saves the rest."""
_HALVINGS = 100
_TINY = 1e-12
_LARGEST_STAKE = 1 - 1e-9
_SHARES = {_LARGEST_STAKE: 0.5, 0.75: 0.25, 0.5: 0.125, 0.25: 0.125}
"""Stakes, and the share of the capital that is played with each."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bend:
    """What turns "the mean of a window is within a level" into a hypothesis about one mean."""

    strength: float
    """≥ 0; 0 leaves losses as they are."""
    level: float
    """What the mean of bent losses is tested against."""

    def apply(self, losses: _Array) -> _Array:
        """Bent losses: 0 and 1 stay, what lies between sinks, none gets above 1."""
        if not self.strength:
            return losses
        return np.asarray(np.expm1(self.strength * losses) / expm1(self.strength))


def bend(level: float, window: int, delta: float) -> Bend:
    """The bend under which the mean loss of a window is at most `level`, with probability ≥ 1-δ.

    For every s > 0, P(sum of W losses > W level) ≤ E[exp(s (loss - level))] ** W by Markov's inequality and
    independence. That is ≤ δ exactly if the mean of (exp(s loss) - 1) / (exp(s) - 1), the bent loss, is at
    most (exp(s level) δ ** (1/W) - 1) / (exp(s) - 1), the bend's level. The s is the best one for 0/1 losses,
    where both together are Chernoff's bound. ValueError unless 0 < level < 1.
    """
    _check(level)
    needed = log(1 / delta) / window
    rate = _below(level, lambda low: divergence(level, low) >= needed)
    strength = log(level * (1 - rate) / (rate * (1 - level)))
    return Bend(strength, expm1(strength * level - needed) / expm1(strength))


def stake(n: int, level: float, delta: float) -> float:
    """The part of the capital, in [0, 1), that is bet on each of n queries.

    It is Kelly's for 0/1 losses whose rate is the one that n queries can just tell from `level`:
    n times its divergence is log(1/δ). ValueError unless 0 < level < 1.
    """
    _check(level)
    needed = log(1 / delta) / n
    return min(1 - _below(level, lambda low: divergence(low, level) >= needed) / level, _LARGEST_STAKE)


def log_capital(n: int, lost: int, level: float) -> float:
    """Log of what the player has after n losses of 0 or 1, `lost` of them 1, whatever their order.

    His capital is shared among several stakes beforehand, for he knows neither the rate nor n: the first part
    is best where nothing is lost, the others where a few are. A mixture of such games is one too (the method
    of mixtures, Robbins 1970). 0 ≤ lost ≤ n; ValueError unless 0 < level < 1.
    """
    parts = [begun + (n - lost) * won + lost * paid for begun, won, paid in _games(level)]
    most = max(parts)
    return most + log(sum([exp(part - most) for part in parts]))


@lru_cache(maxsize=8)
def _games(level: float) -> tuple[tuple[float, float, float], ...]:
    """Logs of each part at the start, and of what a loss of 0 and one of 1 multiply it by."""
    _check(level)
    return tuple(
        (log(share), log1p(part * level / (1 - level)), log1p(-part)) for part, share in _SHARES.items()
    )


def rejects(losses: _Array, level: float, delta: float) -> NDArray[np.bool_]:
    """Whether each column of losses (n, G), in the order of the bets, rejects "the mean is above `level`"."""
    gains = (level - losses) / (1 - level)
    log_capital = np.log1p(stake(len(losses), level, delta) * gains).cumsum(axis=0)
    return np.asarray(log_capital.max(axis=0) >= log(1 / delta))


def walk(losses: _Array, bent: Bend, delta: float) -> int:
    """How many columns of losses (n, G), n ≥ 1, reject in a row, from the first one on.

    None if the bend's level is not above 0: no rate keeps so short a window within the level.
    """
    if bent.level <= 0:
        return 0
    for start in range(0, losses.shape[1], _BLOCK):
        passed = rejects(bent.apply(losses[:, start : start + _BLOCK]), bent.level, delta)
        if not passed.all():
            return start + int(passed.argmin())
    return int(losses.shape[1])


def shuffled(losses: _Array) -> _Array:
    """Losses (n, G) in the order of the bets: rows sorted by value or by group would break the test.

    A fixed order that spreads neighbours evenly (multiplicative hashing, Knuth 1973).
    """
    places = np.arange(len(losses), dtype=np.uint32) * _SPREADING
    return losses[np.argsort(places)]


def divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence, in nats, of 0/1 losses of rate p from rate q; 0 ≤ p < 1, 0 < q < 1."""
    return (p * log(p / q) if p else 0.0) + (1 - p) * (log1p(-p) - log1p(-q))


def _below(level: float, far_enough: Callable[[float], bool]) -> float:
    """The largest rate in (0, level) that is far enough from the level, by bisection; about 0 if none is."""
    low, high = level * _TINY, level
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if far_enough(middle) else (low, middle)
    return low


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError("a betting test needs a level between 0 and 1, both excluded")
