"""Penalised generalised linear models with one output for each model of the pool, fitted all at once.

    minimise   Σ loss(offset + Σ_k X_k W_k + b, y) + ½ Σ_k |W_k|²

Every block X_k is scaled beforehand so that its weights have a standard normal prior; the bias is free. The
problem is convex; SciPy's L-BFGS solves it (Nocedal and Wright 2006, ch. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize

from headgate.router.calibrate import sigmoid

Link = Literal["logit", "log"]
Block = Any
"""A dense or sparse matrix (n, k)."""

_Array = NDArray[np.float64]
_MOST_STEPS = 200
_LARGEST_LOG = 20.0
_LEAST_RATE = 0.02


@dataclass(frozen=True, slots=True)
class Fit:
    """`weights` (k, M) of every block, `bias` (M,)."""

    weights: list[_Array]
    bias: _Array

    def predict(self, blocks: Sequence[Block], offset: _Array | float = 0.0) -> _Array:
        """The linear predictor (n, M)."""
        return np.asarray(offset + self.bias + sum(x @ w for x, w in zip(blocks, self.weights, strict=True)))


def fit(blocks: Sequence[Block], targets: _Array, link: Link = "logit", offset: _Array | float = 0.0) -> Fit:
    """Fits targets (n, M); NaN is not counted.

    With link "logit" targets are qualities in [0, 1] and the loss is log loss; with "log" they are counts of
    0 or more and the loss is Poisson's, which fits their mean.
    """
    columns = [seen(block) for block in blocks]
    problem = _Problem([x[:, c] for x, c in zip(blocks, columns, strict=True)], targets, link, offset)
    found = minimize(
        problem, problem.start, jac=True, method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "ftol": 1e-6, "gtol": 1e-3, "maxcor": 12},
    )  # fmt: skip
    *weights, bias = problem.split(found.x)
    wide = [widened(w, c, x.shape[1]) for w, c, x in zip(weights, columns, blocks, strict=True)]
    return Fit(wide, bias[0])


def seen(block: Block) -> NDArray[np.intp]:
    """Columns that any row has. The optimum of the others is 0, and a table of n-grams has many of them."""
    if not sparse.issparse(block):
        return np.arange(block.shape[1])
    return np.flatnonzero(block.getnnz(axis=0))


def widened(weights: _Array, columns: NDArray[np.intp], width: int) -> _Array:
    """The weights of these columns at their places, 0 elsewhere."""
    wide = np.zeros((width, weights.shape[1]))
    wide[columns] = weights
    return wide


class _Problem:
    """The objective and its gradient over one flat vector."""

    def __init__(self, blocks: Sequence[Block], targets: _Array, link: Link, offset: _Array | float) -> None:
        self._blocks = blocks
        self._transposed = [block.T.tocsr() if hasattr(block, "tocsr") else block.T for block in blocks]
        self._known = ~np.isnan(targets)
        self._targets = np.nan_to_num(targets)
        self._link = link
        self._offset = offset
        self._cuts = np.cumsum([block.shape[1] for block in blocks])
        self.start = self._start()

    def split(self, flat: _Array) -> list[_Array]:
        """The blocks' weights and the bias, (1, M), of a flat vector."""
        return np.split(flat.reshape(-1, self._targets.shape[1]), self._cuts)

    def __call__(self, flat: _Array) -> tuple[float, _Array]:
        *weights, bias = self.split(flat)
        linear = self._offset + bias + sum(x @ w for x, w in zip(self._blocks, weights, strict=True))
        loss, residual = self._loss(linear)
        residual = residual * self._known
        gradient = [x @ residual + w for x, w in zip(self._transposed, weights, strict=True)]
        penalty = 0.5 * sum(float(np.sum(w * w)) for w in weights)
        flat_gradient = np.concatenate([*gradient, residual.sum(axis=0, keepdims=True)]).ravel()
        return float(np.sum(loss * self._known)) + penalty, flat_gradient

    def _loss(self, linear: _Array) -> tuple[_Array, _Array]:
        if self._link == "logit":
            return np.logaddexp(0.0, linear) - self._targets * linear, sigmoid(linear) - self._targets
        capped = np.minimum(linear, _LARGEST_LOG)
        rate = np.exp(capped)
        return rate - self._targets * capped, rate - self._targets

    def _start(self) -> _Array:
        """Nothing but the bias that fits the mean."""
        flat = np.zeros((self._cuts[-1] + 1, self._targets.shape[1]))
        mean = self._targets.sum(axis=0) / np.maximum(self._known.sum(axis=0), 1)
        if self._link == "logit":
            mean = np.clip(mean, _LEAST_RATE, 1 - _LEAST_RATE)
            flat[-1] = np.log(mean / (1 - mean))
        else:
            flat[-1] = np.log(np.maximum(mean, _LEAST_RATE))
        return flat.ravel()
