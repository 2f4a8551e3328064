"""Weighted n-grams: what a query's rows of the table are worth before any model is fitted.

A query is the unit vector of idf over its distinct n-grams (binary term frequency, Salton and Buckley 1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from headgate.router.evidence import Evidence
from headgate.router.features import BUCKETS, Features

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Terms:
    """In how many of `n` queries each n-gram was seen, `seen` (BUCKETS,)."""

    seen: NDArray[np.int64]
    n: int

    @classmethod
    def of(cls, features: Sequence[Features | Evidence]) -> Terms:
        """The counts of these queries, or of these drafts."""
        rows = np.concatenate([one.ngrams for one in features])
        return cls(np.bincount(rows, minlength=BUCKETS), len(features))

    def __add__(self, other: Terms) -> Terms:
        return Terms(self.seen + other.seen, self.n + other.n)

    @property
    def idf(self) -> _Array:
        """(BUCKETS,) ln((1 + n) / (1 + seen)) + 1; 0 for the padding."""
        idf = np.log((1 + self.n) / (1 + self.seen)) + 1
        idf[0] = 0.0
        return np.asarray(idf)

    def matrix(self, features: Sequence[Features | Evidence]) -> Any:
        """(n, BUCKETS) sparse, rows of length 1; 0 for a text without n-grams."""
        rows = np.concatenate([one.ngrams for one in features])
        ends = np.cumsum([0, *(len(one.ngrams) for one in features)])
        weights = self.idf[rows]
        lengths = np.sqrt(np.add.reduceat(np.append(weights**2, 0.0), ends[:-1]) * (np.diff(ends) > 0))
        lengths[lengths == 0] = 1.0
        data = weights / np.repeat(lengths, np.diff(ends))
        return sparse.csr_matrix((data, rows, ends), shape=(len(features), BUCKETS))
