from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

from headgate.router.offline import baselines
from headgate.router.offline.datasets import Outcomes

MakeOutcomes = Callable[[int, int], Outcomes]
NAMES = ("random", "length + LR", "subject mean", "TF-IDF kNN", "TF-IDF + LR")


@pytest.fixture(scope="module")
def halves(make_outcomes: MakeOutcomes, seed: int) -> tuple[Outcomes, Outcomes]:
    return make_outcomes(seed, 300), make_outcomes(seed + 1, 80)


@pytest.mark.parametrize("name", NAMES)
def test_every_rival_tells_probabilities_and_sees_no_test_label(
    halves: tuple[Outcomes, Outcomes], name: str
) -> None:
    read, asked = halves
    told = baselines.rivals(1)[name](read, asked)
    assert told.shape == asked.score.shape
    assert ((told >= 0) & (told <= 1)).all()
    hidden = replace(asked, score=1 - asked.score)
    assert np.array_equal(told, baselines.rivals(1)[name](read, hidden))


def test_all_rivals_are_named(halves: tuple[Outcomes, Outcomes]) -> None:
    assert tuple(baselines.rivals(0)) == NAMES
    first, second = (baselines.rivals(seed)["random"](*halves) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_tfidf_with_logistic_regression_is_sklearns(halves: tuple[Outcomes, Outcomes]) -> None:
    read, asked = halves
    words = TfidfVectorizer(token_pattern=r"\b\w+\b", ngram_range=(1, 2), sublinear_tf=True)
    oracle = LogisticRegression(solver="liblinear", max_iter=1000)
    oracle.fit(words.fit_transform(read.texts), read.score[:, 0])
    told = baselines.rivals(0)["TF-IDF + LR"](read, asked)[:, 0]
    assert told == pytest.approx(oracle.predict_proba(words.transform(asked.texts))[:, 1], abs=1e-6)


def test_neighbours_are_sklearns(halves: tuple[Outcomes, Outcomes]) -> None:
    read, asked = halves
    words = TfidfVectorizer(token_pattern=r"\b\w+\b", ngram_range=(1, 2), sublinear_tf=True)
    oracle = KNeighborsRegressor(50, metric="cosine", algorithm="brute")
    oracle.fit(words.fit_transform(read.texts), read.score)
    expected = oracle.predict(words.transform(asked.texts))
    told = baselines.rivals(0)["TF-IDF kNN"](read, asked)
    assert (np.abs(told - expected) < 0.021).mean() > 0.95, "ties at the fiftieth may be broken another way"


def test_fewer_labels_than_neighbours_give_the_mean(halves: tuple[Outcomes, Outcomes]) -> None:
    few = halves[0].take(np.arange(30))
    told = baselines.rivals(0)["TF-IDF kNN"](few, halves[1])
    assert told == pytest.approx(np.broadcast_to(few.score.mean(axis=0), told.shape))


def test_a_subjects_mean_is_drawn_to_that_of_all(halves: tuple[Outcomes, Outcomes]) -> None:
    read, asked = halves
    read = replace(read.take(np.arange(6)), subjects=("a", "a", "a", "b", "b", "b"))
    read = replace(read, score=np.array([[1.0], [1.0], [1.0], [0.0], [0.0], [1.0]]), models=("tiny",))
    asked = replace(asked.take(np.arange(3)), subjects=("a", "b", "new"), models=("tiny",))
    told = baselines.rivals(0)["subject mean"](read, asked)[:, 0]
    overall = 4 / 6
    assert told == pytest.approx([(3 + 10 * overall) / 13, (1 + 10 * overall) / 13, overall])


@pytest.mark.parametrize("name", ["length + LR", "TF-IDF + LR"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_model_that_is_always_or_never_right_keeps_its_rate(
    halves: tuple[Outcomes, Outcomes], name: str, rate: float
) -> None:
    read, asked = halves
    score = read.score.copy()
    score[:, 1] = rate
    told = baselines.rivals(0)[name](replace(read, score=score), asked)
    assert (told[:, 1] == rate).all()


def test_rivals_learn_what_can_be_learned(halves: tuple[Outcomes, Outcomes]) -> None:
    read, asked = halves
    digits = np.array([len(text.split()[1]) for text in asked.texts])
    for name in ("length + LR", "TF-IDF + LR"):
        told = baselines.rivals(0)[name](read, asked)[:, 0]
        adding = np.array([text.startswith("add") for text in asked.texts])
        short, long = told[adding & (digits <= 2)], told[adding & (digits >= 4)]
        if name == "length + LR":
            assert short.mean() > long.mean() + 0.2
        assert told.std() > 0.01
