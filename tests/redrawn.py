"""Certificates drawn anew many times: how often does the traffic that follows break one?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router import certify

REDRAWS, DELTA = 200, 0.05
_Losses = NDArray[np.bool_]


@dataclass(frozen=True)
class Broken:
    """Shares of the re-draws."""

    any_level: float
    """In which the loss was above one of the levels that were certified, all of which hold together."""
    of_level: dict[float, float]
    certified: float
    """Mean share of the levels that were certified."""


def allowed(redraws: int = REDRAWS) -> float:
    """δ and two standard errors of a share of so many re-draws."""
    return float(DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / redraws))


def broken(
    made: _Losses,
    served: _Losses,
    n: int,
    seed: int,
    window: int = 0,
    redraws: int = REDRAWS,
    levels_up: int = 0,
) -> Broken:
    """Certifies on losses (N, G) of courses as they are `made`, and holds that against those `served`.

    Each time n rows are drawn to certify on. With a `window` the traffic is as many of the other rows;
    without, rows are drawn with replacement and the traffic is all of them: their mean is the true rate.
    `levels_up` plants a fault: each level is served at the λ of a looser one.
    """
    rng, times = np.random.default_rng(seed), dict.fromkeys(certify.LEVELS, 0)
    anywhere, certified, rate = 0, 0, served.mean(axis=0)
    for _ in range(redraws):
        order = rng.permutation(len(made)) if window else rng.integers(0, len(made), n)
        found = certify.fixed_sequence(made[order[:n]], certify.LEVELS, DELTA, window)
        traffic = served[order[n : n + window]].mean(axis=0) if window else rate
        over = [
            one.level
            for place, one in enumerate(found)
            if traffic[found[min(place + levels_up, len(found) - 1)].index] > one.level
        ]
        for level in over:
            times[level] += 1
        anywhere, certified = anywhere + bool(over), certified + len(found)
    shares = {level: count / redraws for level, count in times.items()}
    return Broken(anywhere / redraws, shares, certified / redraws / len(certify.LEVELS))
