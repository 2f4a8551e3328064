"""Calibration: logits to probabilities that match frequencies, one map for every model of the pool.

Three maps are known, each a line on some transform of the score, from the stiffest to the freest:
    temperature   sigmoid(a z)
    platt         sigmoid(a z + b)
    beta          sigmoid(a log p - b log(1 - p) + c) with p = sigmoid(z)
As z = log p - log(1 - p), the first two are the third with a = b: one Newton fit and one line of serving
code do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["temperature", "platt", "beta"]
KINDS: tuple[Kind, ...] = ("temperature", "platt", "beta")

_Array = NDArray[np.float64]
LARGEST_SPREAD = 0.5
"""No quality in [0, 1] varies more."""
_RIDGE = 1e-6
_STEPS = 50
_SMALLEST_STEP = 1e-10


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A fitted map in the beta form, which the others are cases of: temperature and platt have rise = fall.

    Neither is negative, so order is kept.
    """

    kind: Kind
    rise: float
    fall: float
    bias: float

    def apply(self, logits: _Array) -> _Array:
        """Probabilities in [0, 1] of logits of any shape."""
        return apply_all((self,), logits[..., None])[..., 0]

    def one(self, z: float, deviation: float) -> tuple[float, float]:
        """As `apply_all` and `spreads` for one logit, without numpy, which is slower to begin than this."""
        softplus = math.log1p(math.exp(-abs(z)))
        falling, rising = softplus + max(0.0, -z), softplus + max(0.0, z)
        p = _sigmoid(-self.rise * falling + self.fall * rising + self.bias)
        slope = self.rise + (self.fall - self.rise) * _sigmoid(z)
        return p, min(p * (1.0 - p) * slope * deviation, LARGEST_SPREAD)


def fit_all(kind: Kind, logits: _Array, score: _Array) -> tuple[Calibrator, ...]:
    """A calibrator for each of M models, from what was said of n queries and how it was: (n, M) both."""
    return tuple(fit(kind, said, was) for said, was in zip(logits.T, score.T, strict=True))


def apply_all(calibrators: Sequence[Calibrator], logits: _Array) -> _Array:
    """Probabilities of logits (..., M), each model by its own calibrator."""
    rise, fall, bias = np.array([(c.rise, c.fall, c.bias) for c in calibrators]).T
    if (rise == fall).all():
        return sigmoid(rise * logits + bias)
    return sigmoid(-rise * np.logaddexp(0.0, -logits) + fall * np.logaddexp(0.0, logits) + bias)


def spreads(calibrators: Sequence[Calibrator], logits: _Array, deviation: _Array, p: _Array) -> _Array:
    """Standard deviations of probabilities `p`, by their slope at the logits (the delta method), (..., M)."""
    rise, fall = np.array([(c.rise, c.fall) for c in calibrators]).T
    slope = rise + (fall - rise) * sigmoid(logits)
    return np.asarray(np.minimum(p * (1.0 - p) * slope * deviation, LARGEST_SPREAD))


def _sigmoid(z: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * z))


def sigmoid(z: _Array) -> _Array:
    """1 / (1 + exp(-z)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def fit(kind: Kind, logits: _Array, scores: _Array) -> Calibrator:
    """The map of least log loss for logits (n,) and qualities (n,) in [0, 1]; ValueError if n < 1.

    Where the data asks for a falling map, which calibration must never be, the weight is held at 0.
    """
    if len(logits) < 1:
        raise ValueError("calibration needs at least one label")
    basis = _basis(kind, logits)
    free = np.ones(basis.shape[1], dtype=bool)
    while free.any():
        weights = _newton(basis[:, free], scores)
        falling = weights[:-1] < 0 if kind != "temperature" else weights < 0
        if not falling.any():
            return _calibrator(kind, free, weights)
        free[np.flatnonzero(free)[np.flatnonzero(falling)]] = False
    return _calibrator(kind, free, np.empty(0))


def _basis(kind: Kind, logits: _Array) -> _Array:
    ones = np.ones_like(logits)
    if kind == "temperature":
        return logits[:, None]
    if kind == "platt":
        return np.stack((logits, ones), axis=1)
    return np.stack((-np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits), ones), axis=1)


def _newton(basis: _Array, scores: _Array) -> _Array:
    """Weights of the logistic regression of `scores` on `basis`: ridge Newton with halved steps."""
    weights = np.zeros(basis.shape[1])
    loss = _log_loss(basis @ weights, scores)
    for _ in range(_STEPS):
        p = sigmoid(basis @ weights)
        gradient = basis.T @ (p - scores) + _RIDGE * weights
        curvature = (basis * (p * (1 - p))[:, None]).T @ basis + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while (after := _log_loss(basis @ (weights - step), scores)) > loss and np.abs(
            step
        ).max() > _SMALLEST_STEP:
            step = step / 2
        weights, loss = weights - step, after
        if np.abs(step).max() <= _SMALLEST_STEP:
            break
    return weights


def _log_loss(z: _Array, scores: _Array) -> float:
    return float(np.sum(np.logaddexp(0.0, z) - scores * z))


def _calibrator(kind: Kind, free: NDArray[np.bool_], weights: _Array) -> Calibrator:
    full = np.zeros(len(free))
    full[free] = weights
    slopes = full[:1] if kind == "temperature" else full[:-1]
    bias = 0.0 if kind == "temperature" else float(full[-1])
    return Calibrator(kind, float(slopes[0]), float(slopes[-1]), bias)


def brier(p: _Array, scores: _Array) -> float:
    """Mean squared difference of probability and quality, in [0, 1]; lower is better."""
    return float(np.mean((p - scores) ** 2))


def expected_calibration_error(p: _Array, scores: _Array, bins: int = 15) -> float:
    """Σ over `bins` equally filled bins of share · |mean probability - mean quality|, in [0, 1].

    It rewards knowing nothing: read it beside `brier`. With n labels about sqrt(bins / n) / 2 of it is noise.
    """
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(part) * abs(p[part].mean() - scores[part].mean()) for part in parts) / len(p))
