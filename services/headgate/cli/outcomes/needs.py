"""How many labelled queries a certificate takes at least: when not one of them is a regret.

The numbers are those of `headgate.router.certify`: with no regret among n, the rate is within the limit with
confidence 1-δ once (1 - rate)ⁿ ≤ δ. Training keeps its own part of the labels, so more have to be collected.
"""

from __future__ import annotations

from math import ceil

DELTA = 0.05
WINDOW = 300
THRESHOLD_SHARE = 0.30
"""The part of the labels that certificates are made from. A test holds the three to offline.certify's own."""


def level_for(risk_target: float) -> float:
    """The largest level of certificates that meets the target; the smallest of all where none does."""
    from headgate.router import certify  # Imported late, for numpy comes with it.

    return max((one for one in certify.LEVELS if one <= risk_target), default=min(certify.LEVELS))


def to_certify(level: float, delta: float = DELTA, window: int = WINDOW) -> int:
    """Labelled queries in the certificate's own part, without a single regret among them."""
    from headgate.router import certify

    rate = certify.sustainable_rate(level, window, delta / 2) if window else level
    return certify.least_n(rate, (delta / 2 if window else delta) / len(certify.LEVELS))


def to_collect(level: float) -> int:
    """Labelled queries in all, training's part included."""
    return ceil(to_certify(level) / THRESHOLD_SHARE)
