from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from headgate.router import features
from headgate.router.calibrate import sigmoid
from headgate.router.offline import glm, graph
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.graph import Weights
from headgate.router.offline.terms import Terms
from headgate.router.offline.train import Recipe, train
from headgate.router.types import Objective, Query

MakeOutcomes = Callable[[int, int], Outcomes]
STRANGE = (
    "\\int_0^1 {x}^2 dx; def f(): return `y`",
    "ÀÉÎÕÜ ÀÉÎÕÜ ÀÉÎÕÜ",
    "((((((((((((((((((((",
    "A) b\nB) c\nC) d\n" * 9,
)


def heads(weights: Weights, *texts: str) -> np.ndarray:
    """(n, 3, M) of some texts."""
    batch = features.pack([features.extract(Query(text, Objective(0.1))) for text in texts])
    return graph.heads(weights, batch.ngrams, batch.surface)


def test_equal_data_give_equal_weights(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    first, second, other = (
        train(data, Recipe()),
        train(data, Recipe()),
        train(make_outcomes(6, 300), Recipe()),
    )
    for field in fields(Weights):
        assert (getattr(first, field.name) == getattr(second, field.name)).all()
    assert not (first.table == other.table).all()


def test_progress_is_told_in_words(make_outcomes: MakeOutcomes) -> None:
    told: list[str] = []
    train(make_outcomes(5, 100), Recipe(), progress=told.append)
    assert "fitting p_correct" in told
    assert "fitting the spread" in told


def test_difficulty_and_length_are_learned(outcomes: Outcomes) -> None:
    found = heads(
        train(outcomes, Recipe()),
        "add 3 and 4 of 123456",
        "add 34567 and 45678 of 123456",
        "name 34567 and 45678 of 12",
    )
    p = sigmoid(found[:, 0])
    assert p[0, 0] > p[1, 0] + 0.4, "tiny fails at long numbers"
    assert p[1, 2] > 0.85
    assert p[2, 0] > p[2, 2], "and is ahead in its speciality"
    assert np.abs(np.exp(found[:, 1]) / [4.0, 8.0, 16.0] - 1).max() < 0.25


def test_a_length_that_depends_on_the_text_is_learned(outcomes: Outcomes) -> None:
    naming = np.array([text.startswith("name") for text in outcomes.texts])
    longer = np.where(naming[:, None], 3.0, 1.0) * outcomes.completion_tokens
    weights = train(replace(outcomes, completion_tokens=longer), Recipe())
    adding, named = np.exp(heads(weights, "add 345 and 456 of 123456", "name 345 and 456 of 123456")[:, 1])
    assert named / adding == pytest.approx([3.0, 3.0, 3.0], rel=0.2)


def test_unknown_lengths_keep_the_default(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    unknown = np.full_like(data.completion_tokens, np.nan)
    blind = train(replace(data, completion_tokens=unknown), Recipe(default_answer_tokens=99.0))
    assert np.exp(heads(blind, "add 3 and 4 of 5", *STRANGE)[:, 1]) == pytest.approx(99.0, rel=1e-4)


def test_a_model_without_lengths_leaves_those_of_the_others_alone(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    some = data.completion_tokens.copy()
    some[:, 1], some[::2, 0] = np.nan, np.nan
    weights = train(replace(data, completion_tokens=some), Recipe(default_answer_tokens=99.0))
    tokens = np.exp(heads(weights, *data.texts[:50])[:, 1])
    assert tokens[:, 1] == pytest.approx(99.0, rel=1e-4)
    assert tokens[:, 0].mean() == pytest.approx(4.0, rel=0.2)
    assert tokens[:, 2].mean() == pytest.approx(16.0, rel=0.2)


def deviation(weights: Weights, texts: tuple[str, ...]) -> np.ndarray:
    """(n, M) of the logits."""
    return np.sqrt(heads(weights, *texts)[:, 2])


def test_the_spread_is_larger_on_strange_text(outcomes: Outcomes) -> None:
    weights = train(outcomes, Recipe())
    near, strange = deviation(weights, outcomes.texts[:200]), deviation(weights, STRANGE)
    assert (strange.min(axis=0) > 1.5 * near.mean(axis=0)).all()
    seen = np.stack([one.surface for one in outcomes.features])
    asked = features.pack([features.extract(Query(text, Objective(0.1))) for text in STRANGE]).surface
    far = (asked - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 0.1)
    prior = np.sqrt(1 + Recipe().surface ** 2 * (far**2).sum(axis=1))
    assert (strange <= 1.001 * prior[:, None]).all(), "labels never make one less sure"


def test_the_spread_is_larger_where_labels_were_few(make_outcomes: MakeOutcomes, seed: int) -> None:
    fresh = make_outcomes(seed + 9, 200).texts
    few, some, many = (
        deviation(train(make_outcomes(seed, n), Recipe()), fresh).mean(axis=0) for n in (100, 500, 2500)
    )
    assert (few > 1.05 * some).all()
    assert (some > 1.2 * many).all()


def test_the_spread_has_the_order_of_a_bootstraps(make_outcomes: MakeOutcomes, seed: int) -> None:
    """Refits draw labels anew, and where the penalty pulls: else all would agree on what nobody saw.

    Labels of one verb are few, so there is an order to be found.
    """
    data, rng = make_outcomes(seed, 900), np.random.default_rng(seed)
    taking = np.array([text.startswith("take") for text in data.texts])
    data = data.take(np.flatnonzero(~taking | (rng.random(900) < 0.05)))
    fresh = (*make_outcomes(seed + 9, 300).texts, *STRANGE)
    refits = np.std([_refitted(data, fresh, rng) for _ in range(20)], axis=0)
    told = deviation(train(data, Recipe()), fresh)
    for m in range(3):
        assert spearmanr(told[:, m], refits[:, m])[0] > 0.5
    assert 0.5 < told.mean() / refits.mean() < 3


def _refitted(data: Outcomes, fresh: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Logits (n, M) of fresh texts by a fit to redrawn labels, pulled to drawn weights instead of 0."""
    terms, asked = Terms.of(data.features), [features.extract(Query(text, Objective(0.1))) for text in fresh]
    seen = np.stack([one.surface for one in data.features]).astype(np.float64)
    scale = Recipe().surface / np.maximum(seen.std(axis=0), 0.1)
    read, told = (
        (terms.matrix(some), (np.stack([one.surface for one in some]) - seen.mean(axis=0)) * scale)
        for some in (data.features, asked)
    )
    pulls = [rng.normal(size=(block.shape[1], 3)) for block in read]
    rows = rng.integers(0, len(data), len(data))
    offset = sum(block @ pull for block, pull in zip(read, pulls, strict=True))[rows]
    fitted = glm.fit([block[rows] for block in read], data.score[rows], "logit", offset)
    return fitted.predict(told) + sum(block @ pull for block, pull in zip(told, pulls, strict=True))
