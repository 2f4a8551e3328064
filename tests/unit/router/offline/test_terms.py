from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer

from headgate.router import features
from headgate.router.features import BUCKETS, Features
from headgate.router.offline.terms import Terms
from headgate.router.types import Query

TEXTS = ("Reverse abc", "Reverse abcd", "What is 12 + 345?", "", "Reverse", "12 + 345 and 12 + 345")


@pytest.fixture
def read(ask: Callable[..., Query]) -> list[Features]:
    return [features.extract(ask(text)) for text in TEXTS]


def counted(read: list[Features]) -> sparse.csr_matrix:
    """Which n-grams each query has."""
    matrix = sparse.lil_matrix((len(read), BUCKETS))
    for row, one in enumerate(read):
        matrix[row, one.ngrams] = 1.0
    return matrix.tocsr()


def test_the_matrix_is_sklearns_tfidf_of_what_each_query_has(read: list[Features]) -> None:
    oracle = TfidfTransformer(smooth_idf=True, norm="l2").fit(counted(read))
    ours = Terms.of(read).matrix(read)
    assert abs(ours - oracle.transform(counted(read))).max() < 1e-12


def test_the_idf_of_other_queries_is_used_as_it_is(read: list[Features]) -> None:
    oracle = TfidfTransformer().fit(counted(read[:3]))
    ours = Terms.of(read[:3]).matrix(read[3:])
    assert abs(ours - oracle.transform(counted(read[3:]))).max() < 1e-12


def test_a_query_is_of_length_1_and_a_text_without_ngrams_is_nothing(read: list[Features]) -> None:
    none = Features(np.empty(0, dtype=np.int32), read[0].surface, read[0].contexts)
    matrix = Terms.of([*read, none]).matrix([none, *read, none, none])
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1)).A1
    assert lengths == pytest.approx([0, *([1] * len(read)), 0, 0])


def test_sums_count_both_and_the_padding_weighs_nothing(read: list[Features]) -> None:
    both, parts = Terms.of(read), Terms.of(read[:2]) + Terms.of(read[2:])
    assert np.array_equal(both.idf, parts.idf)
    assert parts.n == len(read)
    assert both.idf[0] == 0.0
    assert (both.idf[1:] >= 1.0).all()
