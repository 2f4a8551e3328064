"""Training of the uncertainty model: convex problems only, from outcomes to the weights of one table.

    logit of p_correct = n-grams · w + surface · v + difficulty · u + b

The n-grams' weights w have a wide prior, the few dense numbers a narrow one. `difficulty` is what other
models' outcomes say of the text (see `difficulty`); as it is linear in the n-grams too, it is folded into the
table, and a decision reads one row for each n-gram, whatever was learned from whom.

The spread is Laplace's approximation around the optimum, with a diagonal covariance for the n-grams and a
full one for the surface (MacKay 1992): an n-gram that no label has seen keeps its whole prior variance, so
that strange text has a wide spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.calibrate import sigmoid
from headgate.router.evidence import Evidence
from headgate.router.offline import glm
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.difficulty import Difficulty
from headgate.router.offline.graph import Weights
from headgate.router.offline.terms import Terms
from headgate.router.reader import pack

Progress = Callable[[str], None]
"""Told in a few words what is done next."""

_Array = NDArray[np.float64]
_LEAST_DEVIATION = 0.1


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that training may vary; the defaults were chosen once, on worksheets and on MMLU."""

    seed: int = 0
    surface: float = 0.1
    """Prior standard deviation of a surface number's weight, per standard deviation of the number."""
    default_answer_tokens: float = 256.0
    """Expected length of an answer where the data has no token counts."""


@dataclass(frozen=True, slots=True)
class _Dense:
    """Dense numbers (n, k) as training saw them: `scale` times a deviation from `mean`, in deviations."""

    mean: _Array
    factor: _Array

    @classmethod
    def of(cls, numbers: _Array, scale: float | _Array, least: float) -> _Dense:
        return cls(numbers.mean(axis=0), scale / np.maximum(numbers.std(axis=0), least))

    def apply(self, numbers: _Array) -> _Array:
        return np.asarray((numbers - self.mean) * self.factor)

    def unfold(self, weights: _Array) -> tuple[_Array, _Array]:
        """Weights (k, M) on the raw numbers, and what is added to the bias (M,)."""
        raw = weights * self.factor[:, None]
        return raw, -self.mean @ raw


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the difficulty adds to a logit.

    `offset` (n, 1) by the prior's mean, `block` (n, K) to be weighed.
    """

    offset: _Array
    block: _Array
    difficulty: Difficulty | None

    @classmethod
    def of(cls, ngrams: Any, difficulty: Difficulty | None, folds: NDArray[np.intp] | None) -> _Shared:
        if difficulty is None:
            return cls(np.zeros((ngrams.shape[0], 1)), np.zeros((ngrams.shape[0], 0)), None)
        prior = difficulty.prior
        numbers = (difficulty.numbers(ngrams, folds) - prior.centre) / prior.deviation
        return cls((numbers @ prior.mean)[:, None], numbers @ prior.root, difficulty)

    def unfold(self, weights: _Array) -> tuple[_Array | float, _Array | float]:
        """Weights (BUCKETS, M) on the n-grams, and what is added to the bias (M,)."""
        if self.difficulty is None:
            return 0.0, 0.0
        prior = self.difficulty.prior
        raw = (prior.mean[:, None] + prior.root @ weights) / prior.deviation[:, None]
        return self.difficulty.loadings @ raw, -prior.centre @ raw


def train(
    outcomes: Outcomes,
    recipe: Recipe,
    difficulty: Difficulty | None = None,
    folds: NDArray[np.intp] | None = None,
    progress: Progress = lambda doing: None,
) -> Weights:
    """The weights for these outcomes; the same for the same data, recipe and machine.

    `folds` (n,) says which rows the difficulty was fitted without.
    """
    progress("counting n-grams")
    terms = Terms.of(outcomes.features)
    terms = terms + difficulty.terms if difficulty else terms
    ngrams = terms.matrix(outcomes.features)
    surface = np.stack([one.surface for one in outcomes.features]).astype(np.float64)
    seen = _Dense.of(surface, recipe.surface, _LEAST_DEVIATION)
    shared = _Shared.of(ngrams, difficulty, folds)
    progress("fitting p_correct")
    blocks = ngrams, seen.apply(surface), shared.block
    quality = glm.fit(blocks, outcomes.score, offset=shared.offset)
    progress("fitting the spread")
    variance, root = _posterior(sigmoid(quality.predict(blocks, shared.offset)), blocks[0], blocks[1])
    progress("fitting the lengths of answers")
    length = _lengths(outcomes, blocks[:2], recipe)
    by_ngram, shared_bias = shared.unfold(quality.weights[2])
    by_surface, surface_bias = seen.unfold(np.concatenate((quality.weights[1], length.weights[1]), axis=1))
    columns = np.concatenate((quality.weights[0] + by_ngram, length.weights[0]), axis=1)
    idf = terms.idf[:, None]
    return Weights(
        table=np.concatenate((idf * columns, idf**2 * variance, idf**2), axis=1).astype(np.float16),
        surface=by_surface.astype(np.float32),
        bias=(np.concatenate((quality.bias + shared_bias, length.bias)) + surface_bias).astype(np.float32),
        root=(seen.factor[:, None] * root).astype(np.float32),
        root_bias=(-(seen.mean * seen.factor) @ root).astype(np.float32),
    )


def train_reader(
    outcomes: Outcomes, seen: Sequence[Evidence], logits: _Array, tokens: _Array, recipe: Recipe
) -> Weights:
    """The weights of a look at drafts, whose evidence is `seen`.

    `logits` (n, M) and expected `tokens` (n,) are what a model that had not seen a query said of it. The
    logits have a wide prior, as n-grams do: nobody knows beforehand how far to trust them. Lengths are not
    told.
    """
    terms = Terms.of(seen)
    ngrams = terms.matrix(seen)
    numbers = pack(seen, logits, tokens).surface.astype(np.float64)
    scale = np.full(numbers.shape[1], recipe.surface)
    scale[-1 - logits.shape[1] : -1] = 1.0
    dense = _Dense.of(numbers, scale, _LEAST_DEVIATION)
    blocks = ngrams, dense.apply(numbers)
    quality = glm.fit(blocks, outcomes.score)
    variance, root = _posterior(sigmoid(quality.predict(blocks)), *blocks)
    by_number, bias = dense.unfold(quality.weights[1])
    silent = np.zeros_like(quality.weights[0])
    idf = terms.idf[:, None]
    return Weights(
        table=np.concatenate((idf * quality.weights[0], silent, idf**2 * variance, idf**2), axis=1).astype(
            np.float16
        ),
        surface=np.concatenate((by_number, np.zeros_like(by_number)), axis=1).astype(np.float32),
        bias=np.concatenate((quality.bias + bias, np.zeros_like(bias))).astype(np.float32),
        root=(dense.factor[:, None] * root).astype(np.float32),
        root_bias=(-(dense.mean * dense.factor) @ root).astype(np.float32),
    )


def _posterior(p: _Array, ngrams: Any, surface: _Array) -> tuple[_Array, _Array]:
    """Variance of the n-grams' weights (BUCKETS, M), and a root R (S, S) of the surface's covariance R Rᵀ.

    The surface has one covariance for all models, that of their mean curvature.
    """
    curvature = p * (1 - p)
    variance = 1.0 / (1.0 + ngrams.multiply(ngrams).T @ curvature)
    precision = (surface * curvature.mean(axis=1)[:, None]).T @ surface + np.eye(surface.shape[1])
    return np.asarray(variance), np.linalg.inv(np.linalg.cholesky(precision)).T


def _lengths(outcomes: Outcomes, blocks: tuple[Any, _Array], recipe: Recipe) -> glm.Fit:
    """Logarithms of expected answer tokens; a model without any count keeps the default."""
    tokens = outcomes.completion_tokens
    silent = np.isnan(tokens).all(axis=0)
    weights = [np.zeros((block.shape[1], tokens.shape[1])) for block in blocks]
    bias = np.full(tokens.shape[1], np.log(recipe.default_answer_tokens))
    if not silent.all():
        counted = tokens[:, ~silent]
        fitted = glm.fit(blocks, counted / _unit(counted), "log")
        for all_models, some in zip(weights, fitted.weights, strict=True):
            all_models[:, ~silent] = some
        bias[~silent] = fitted.bias + np.log(_unit(counted))
    return glm.Fit(weights, bias)


def _unit(tokens: _Array) -> _Array:
    """Tokens of a mean answer (M,): so counted, a label of length weighs about what one of quality does."""
    known = ~np.isnan(tokens)
    mean = np.where(known, tokens, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(np.maximum(mean, 1.0))
