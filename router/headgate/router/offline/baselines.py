"""The rivals that every routing claim has to stand beside, fitted on the same rows.

Settings were fixed once and not tuned: they are those of the field's comparisons (see
docs/reference/results.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline.datasets import Outcomes

_Array = NDArray[np.float64]
Rival = Callable[[Outcomes, Outcomes], _Array]
"""(train, test) → p_correct (n, M) of the test queries."""

_NEIGHBOURS = 50
_SUBJECT_PRIOR = 10.0
_WORD = r"(?u)\b\w+\b"
"""Words of one letter too: better on every set than scikit-learn's default, which drops them."""
_MOST_STEPS = 1000


def rivals(seed: int) -> Mapping[str, Rival]:
    """All of them by name; `random` draws with `seed`."""
    return {
        "random": lambda train, test: np.random.default_rng(seed).random((len(test), len(test.models))),
        "length + LR": _surface,
        "subject mean": _subject_mean,
        "TF-IDF kNN": _neighbours,
        "TF-IDF + LR": _tfidf,
    }


def _surface(train: Outcomes, test: Outcomes) -> _Array:
    """Logistic regression on the surface numbers."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    read, asked = (np.stack([one.surface for one in table.features]) for table in (train, test))
    return _by_model(lambda: make_pipeline(StandardScaler(), _logistic()), read, train.score, asked)


def _subject_mean(train: Outcomes, test: Outcomes) -> _Array:
    """Mean quality in the query's subject, drawn to that of all; traffic does not have this metadata."""
    overall = train.score.mean(axis=0)
    subjects = np.array(train.subjects)
    means = {}
    for subject in set(train.subjects):
        rows = train.score[subjects == subject]
        means[subject] = (rows.sum(axis=0) + _SUBJECT_PRIOR * overall) / (len(rows) + _SUBJECT_PRIOR)
    return np.stack([means.get(subject, overall) for subject in test.subjects])


def _neighbours(train: Outcomes, test: Outcomes) -> _Array:
    """Mean quality of the nearest labelled queries by cosine of TF-IDF."""
    read, asked = _vectors(train, test)
    near = min(_NEIGHBOURS, len(train))
    found = np.empty((len(test), len(test.models)))
    for row in range(len(test)):
        alike = (read @ asked[row].T).toarray().ravel()
        found[row] = train.score[np.argpartition(-alike, near - 1)[:near]].mean(axis=0)
    return found


def _tfidf(train: Outcomes, test: Outcomes) -> _Array:
    """Logistic regression on TF-IDF of words and pairs of words."""
    read, asked = _vectors(train, test)
    return _by_model(_logistic, read, train.score, asked)


def _vectors(train: Outcomes, test: Outcomes) -> tuple[Any, Any]:
    """Sparse TF-IDF of both, as the first has it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD)
    return vectorizer.fit_transform(train.texts), vectorizer.transform(test.texts)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, solver="liblinear", max_iter=_MOST_STEPS)


def _by_model(make: Callable[[], Any], read: Any, score: _Array, asked: Any) -> _Array:
    """One classifier for each model; a model that is always or never right keeps its rate."""
    columns = []
    for right in (score >= 0.5).T:
        if right.all() or not right.any():
            columns.append(np.full(asked.shape[0], right.mean()))
        else:
            columns.append(make().fit(read, right).predict_proba(asked)[:, 1])
    return np.stack(columns, axis=1)
