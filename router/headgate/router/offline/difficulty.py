"""Difficulty that is shared between models: what the outcomes of other models say of a text.

For every benchmark a few numbers are read off its outcome matrix: how hard a question is (mean quality), how
much a better model gains (top third minus bottom third), and the two main directions of what is left: an
item-response model with several dimensions, fitted by moments (Reckase 2009). Ridge regressions then read
these numbers from the n-grams, so that they are known for a question that nobody has answered. A new pair of
models needs few labels to learn how its own quality follows from them.

What is read off a question's own outcomes must not come back as its feature: rows that were used in fitting
are read with loadings that were fitted without their fold.
"""

from __future__ import annotations

import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from headgate.router.features import SCHEMA
from headgate.router.offline import formats, glm
from headgate.router.offline.datasets import DataError, Outcomes, unknown
from headgate.router.offline.datasets import folds as fold_of
from headgate.router.offline.terms import Terms

_Array = NDArray[np.float64]
_Loadings = NDArray[np.float32]
SHIPPED = "difficulty.npz"
_RIDGE = 5.0
_STEPS = 25
_MANY_MODELS = 5
_DIRECTIONS = 2
_TINY = 1e-12
_FREEDOM = 0.05
"""What a head may differ in any direction, even if all known ones agree there."""
_NEARLY_ALL = 0.95
_LEAST_QUERIES = 100


@dataclass(frozen=True, slots=True)
class Prior:
    """Of a model's head on standardised numbers: `mean` (K,) and a root (K, K) of the covariance."""

    centre: _Array
    """(K,) means of the numbers."""
    deviation: _Array
    """(K,) standard deviations of the numbers."""
    mean: _Array
    root: _Array


@dataclass(frozen=True)
class Difficulty:
    """`loadings` (BUCKETS, K) on the n-grams as `terms` weighs them."""

    terms: Terms
    loadings: _Loadings
    prior: Prior
    without_fold: Mapping[int, _Loadings] = field(default_factory=dict)
    """Loadings that were fitted without a fold, for rows of that fold."""

    def numbers(self, ngrams: Any, folds: NDArray[np.intp] | None = None) -> _Array:
        """(n, K) of the rows of a matrix of n-grams; `folds` (n,) if rows may have been used in fitting."""
        if folds is None or not self.without_fold:
            return np.asarray(ngrams @ self.loadings, dtype=np.float64)
        return _cross_fitted(ngrams, folds, self.without_fold)


def _cross_fitted(ngrams: Any, folds: NDArray[np.intp], without: Mapping[int, _Loadings]) -> _Array:
    """(n, K), every row by the loadings without its fold."""
    numbers = np.empty((len(folds), next(iter(without.values())).shape[1]))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        numbers[rows] = ngrams[rows] @ without[int(fold)]
    return numbers


def dump(difficulty: Difficulty) -> bytes:
    """What is served of it: without the loadings that left out a fold."""
    buffer, prior = io.BytesIO(), difficulty.prior
    np.savez_compressed(
        buffer,
        schema=np.array(SCHEMA),
        seen=difficulty.terms.seen.astype(np.int32),
        n=np.array(difficulty.terms.n),
        loadings=difficulty.loadings.astype(np.float16),
        centre=prior.centre,
        deviation=prior.deviation,
        mean=prior.mean,
        root=prior.root,
    )
    return buffer.getvalue()


def load(data: bytes) -> Difficulty:
    """The difficulty in `data`; DataError if it is none, or of another feature schema."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            schema, n = int(arrays["schema"]), int(arrays["n"])
            seen, loadings = arrays["seen"].astype(np.int64), arrays["loadings"].astype(np.float32)
            prior = Prior(*(arrays[name] for name in ("centre", "deviation", "mean", "root")))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError("this file holds no difficulty; `headgate pretrain` writes one") from error
    if schema != SCHEMA:
        raise DataError(
            f"the difficulty has feature schema {schema}, this Headgate reads {SCHEMA}; pretrain it again"
        )
    return Difficulty(Terms(seen, n), loadings, prior)


def shipped() -> Difficulty:
    """What the outcomes of published benchmarks say; its card is difficulty.md beside it."""
    return load(resources.files(__package__).joinpath(SHIPPED).read_bytes())


@dataclass(frozen=True)
class Known:
    """Outcomes of other models on several benchmarks, ready to be fitted without some folds."""

    benchmarks: Sequence[Outcomes]
    folds: Sequence[NDArray[np.intp]]
    """The fold of every query, for each benchmark."""
    _fitted: dict[frozenset[int], _Loadings] = field(default_factory=dict)
    _priors: dict[tuple[int, ...], Prior] = field(default_factory=dict)

    def fit(self, *left_out: int) -> Difficulty:
        """Difficulty that knows no outcome of the folds `left_out`; other rows are read without their own.

        Rows of the folds before the last of several are not read at all, those of the last with what is
        served.
        """
        before = left_out[:-1] if len(left_out) > 1 else left_out
        folds = {int(fold) for folds in self.folds for fold in np.unique(folds)} - set(before)
        without = {fold: self._loadings(frozenset((*before, fold))) for fold in sorted(folds)}
        if before not in self._priors:
            self._priors[before] = self._prior(without, before)
        kept = {fold: loadings for fold, loadings in without.items() if fold not in left_out}
        return Difficulty(self._terms, self._loadings(frozenset(left_out)), self._priors[before], kept)

    def _prior(self, without: Mapping[int, _Loadings], left_out: Sequence[int]) -> Prior:
        """From heads on numbers that were read without the questions they are of."""
        numbers, scores = [], []
        for ngrams, table, folds in zip(self._ngrams, self.benchmarks, self.folds, strict=True):
            rows = np.flatnonzero(~np.isin(folds, list(left_out)))
            numbers.append(_cross_fitted(ngrams[rows], folds[rows], without))
            scores.append(table.score[rows])
        together = np.concatenate(numbers)
        centre, deviation = together.mean(axis=0), np.maximum(together.std(axis=0), _TINY)
        heads = np.concatenate([
            glm.fit(((one - centre) / deviation,), score).weights[0].T
            for one, score in zip(numbers, scores, strict=True)
        ])  # fmt: skip
        spread = np.cov(heads.T, bias=True) + _FREEDOM**2 * np.eye(heads.shape[1])
        root = np.asarray(np.linalg.cholesky(spread), dtype=np.float64)
        return Prior(centre, deviation, heads.mean(axis=0), root)

    @cached_property
    def _terms(self) -> Terms:
        return Terms.of([one for table in self.benchmarks for one in table.features])

    @cached_property
    def _ngrams(self) -> list[Any]:
        return [self._terms.matrix(table.features) for table in self.benchmarks]

    def _loadings(self, left_out: frozenset[int]) -> _Loadings:
        if left_out not in self._fitted:
            fitted = []
            for ngrams, table, folds in zip(self._ngrams, self.benchmarks, self.folds, strict=True):
                kept = np.flatnonzero(~np.isin(folds, list(left_out)))
                fitted.append(_ridge(ngrams[kept], targets(table.score[kept])))
            self._fitted[left_out] = np.concatenate(fitted, axis=1).astype(np.float32)
        return self._fitted[left_out]


def known(folder: Path, models: Container[str], seed: int, folds: int, sources: Sequence[str] = ()) -> Known:
    """What a folder of outcomes knows without these models and sources, in the folds of `datasets.folds`.

    DataError if it has no such source: one that is misspelt would go on teaching.
    """
    there = formats.sources(folder)
    for name in sources:
        if name not in there:
            raise unknown(str(folder), "source", name, there)
    names = [name for name in there if name not in sources]
    tables = [table for name in names if (table := _answered(folder, name, models)) is not None]
    return Known(tables, [fold_of(table, seed, folds) for table in tables])


def _answered(folder: Path, source: str, models: Container[str]) -> Outcomes | None:
    """A source's queries that all models answered which answered nearly all; None without such a model."""
    table = formats.read(folder, source=source, complete=False)
    answered = (~np.isnan(table.score)).mean(axis=0) >= _NEARLY_ALL
    kept = [name for name, one in zip(table.models, answered, strict=True) if one and name not in models]
    if not kept:
        return None
    table = table.with_models(kept)
    table = table.take(np.flatnonzero(~np.isnan(table.score).any(axis=1)))
    return table if len(table) >= _LEAST_QUERIES else None


def targets(score: _Array) -> _Array:
    """The numbers of every question, (n, 1 to 4), of its outcomes (n, M)."""
    if score.shape[1] == 1:
        return score
    strength = score.mean(axis=0)
    order, third = np.argsort(strength), max(1, len(strength) // 3)
    gain = score[:, order[-third:]].mean(axis=1) - score[:, order[:third]].mean(axis=1)
    columns = [score.mean(axis=1), gain]
    if score.shape[1] >= _MANY_MODELS:
        centred = score - strength
        directions = _with_sign(np.linalg.svd(centred, full_matrices=False)[2][:_DIRECTIONS])
        columns += list((centred @ directions.T / np.sqrt(len(strength))).T)
    return np.stack(columns, axis=1)


def _with_sign(directions: _Array) -> _Array:
    """Directions (k, M) whose largest part is positive: the same ones, whatever rows they were found on."""
    largest = np.abs(directions).argmax(axis=1)
    return np.asarray(directions * np.sign(directions[np.arange(len(directions)), largest])[:, None])


def _ridge(ngrams: Any, wanted: _Array) -> _Array:
    """Loadings (BUCKETS, k) of a ridge regression on `wanted` (n, k), by conjugate gradients."""
    columns, width = glm.seen(ngrams), ngrams.shape[1]
    ngrams = ngrams[:, columns]
    residual = ngrams.T @ (wanted - wanted.mean(axis=0))
    loadings, direction = np.zeros_like(residual), residual.copy()
    size = (residual**2).sum(axis=0)
    for _ in range(_STEPS):
        ahead = ngrams.T @ (ngrams @ direction) + _RIDGE * direction
        step = size / np.maximum((direction * ahead).sum(axis=0), _TINY)
        loadings += step * direction
        residual -= step * ahead
        size, before = (residual**2).sum(axis=0), size
        direction = residual + (size / np.maximum(before, _TINY)) * direction
    return glm.widened(loadings, columns, width)
