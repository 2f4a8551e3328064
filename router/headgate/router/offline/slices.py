"""Slices of the queries: how far calibration that is right overall is wrong inside of them.

A tree reads the residuals of p_correct from the surface of the queries. What its leaves find on queries
that it has not seen is a lower bound of calibration and grouping loss together (after Perez-Lebel et al.,
ICLR 2023); moving p by the leaf's mean residual, shrunk, is what a calibrator for each slice would do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline import curve
from headgate.router.offline.curve import Interval
from headgate.router.offline.datasets import Outcomes

LEAVES, LEAST = 12, 50
"""Of the tree, and the queries of the smallest leaf."""
SHRINKAGE = 50.0
"""Queries of residual 0 that every leaf is taken to have besides its own."""

_Array = NDArray[np.float64]
_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Misfit:
    """Of one model."""

    loss: float
    """Mean squared residual of the leaves less its noise, at least 0; on the scale of the Brier score."""
    brier_change: Interval
    """Brier score with a calibrator for each slice minus the one without; below zero is better."""


def misfit(outcomes: Outcomes, p: _Array, score: _Array, seed: int) -> Misfit:
    """Of predictions `p` (n,) of a quality `score` (n,) in [0, 1].

    The leaves come from one half of the queries and are measured on the other, both ways.
    """
    surface = np.stack([one.surface for one in outcomes.features]).astype(np.float64)
    seen: _Array = np.column_stack((surface, p))
    half = np.random.default_rng(seed).permutation(len(p)) % 2
    moved, losses = np.empty(len(p)), []
    for side in (0, 1):
        learnt, asked = np.flatnonzero(half != side), np.flatnonzero(half == side)
        of_learnt, of_asked = _leaves(seen, score - p, learnt, asked, seed)
        moved[asked] = _means(of_learnt, (score - p)[learnt], SHRINKAGE)[of_asked]
        losses.append(_loss(of_asked, (score - p)[asked]))
    change = (np.clip(p + moved, 0, 1) - score) ** 2 - (p - score) ** 2
    return Misfit(
        max(0.0, float(np.mean(losses))),
        curve.interval(lambda rows: float(change[rows].mean()), len(p), seed),
    )


def _leaves(seen: _Array, residual: _Array, learnt: _Rows, asked: _Rows, seed: int) -> tuple[_Rows, _Rows]:
    """The leaf, from 0 on, of the rows that the tree was grown on and of the others."""
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(max_leaf_nodes=LEAVES, min_samples_leaf=LEAST, random_state=seed)
    tree.fit(seen[learnt], residual[learnt])
    _, of_all = np.unique(tree.apply(seen[np.concatenate((learnt, asked))]), return_inverse=True)
    return of_all[: len(learnt)], of_all[len(learnt) :]


def _means(leaves: _Rows, residual: _Array, extra: float) -> _Array:
    """Mean residual of every leaf, with `extra` rows of residual 0."""
    return np.asarray(np.bincount(leaves, residual) / (np.bincount(leaves) + extra))


def _loss(leaves: _Rows, residual: _Array) -> float:
    """Mean over the rows of their leaf's squared mean residual, less what chance alone would make of it."""
    counts = np.maximum(np.bincount(leaves), 2)
    means = np.bincount(leaves, residual) / counts
    noise = (np.bincount(leaves, residual**2) / counts - means**2) / (counts - 1)
    return float((counts * (means**2 - noise)).sum() / counts.sum())
