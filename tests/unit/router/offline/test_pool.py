"""The curves of a pool: the rule, what it buys, and a bound that no choice of models can beat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from headgate.router.offline import pool


def world(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, 3) and costs (n, 3) in which the dearer models are a little better."""
    rng = np.random.default_rng(seed)
    value = np.clip(rng.uniform(0, 0.8, (n, 3)) + np.array([0.0, 0.1, 0.2]), 0, 1)
    return value, rng.uniform(0.8, 1.2, (n, 3)) * np.array([0.1, 0.4, 1.0])


def test_no_lambda_buys_the_best_answers_and_a_large_one_the_cheapest() -> None:
    value, cost = world(500, 1)
    made = pool.choices(value, cost)
    assert np.array_equal(made[:, 0], value.argmax(axis=1))
    assert np.array_equal(made[:, -1], cost.argmin(axis=1))
    assert (np.diff(pool.path(made, cost)) <= 1e-12).all()


def test_of_two_equal_models_the_cheaper_answers() -> None:
    made = pool.choices(np.full((4, 2), 0.5), np.tile([1.0, 0.2], (4, 1)))
    assert (made == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_an_exhaustive_search_finds_nothing_above_the_bound_and_the_rule_reaches_it(seed: int) -> None:
    value, cost = world(8, seed)
    rows = np.arange(8)
    every = np.array(list(itertools.product(range(3), repeat=8)))
    values, costs = value[rows, every].mean(axis=1), cost[rows, every].mean(axis=1)
    made = pool.choices(value, cost)
    for budget in np.linspace(costs.min(), costs.max(), 7):
        found = values[costs <= budget + 1e-12].max()
        (bound,) = pool.most(value, cost, np.array([budget]))
        assert found <= bound + 1e-9
        # Of eight queries one may be left between two models.
        assert bound - found < 1 / 8
        assert pool.bought(made, value, cost, np.array([budget]))[0] <= bound + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_of_many_queries_the_rule_loses_next_to_nothing_against_the_bound(seed: int) -> None:
    value, cost = world(2_000, seed)
    made, steps = pool.choices(value, cost), pool.budgets(cost)
    lost = pool.most(value, cost, steps) - pool.bought(made, value, cost, steps)
    assert (lost >= -1e-9).all()
    assert lost.max() < 0.005


def test_who_knows_more_is_ahead_and_its_interval_says_so() -> None:
    value, cost = world(1_500, 7)
    score = (np.random.default_rng(8).random(value.shape) < value).astype(float)
    knowing, guessing = (pool.choices(one, cost) for one in (value, np.tile(value.mean(axis=0), (1_500, 1))))
    middle = pool.ahead(knowing, guessing, score, cost, seed=1)[pool.PLACES // 2]
    assert middle.low > 0
    same = pool.ahead(knowing, knowing, score, cost, seed=1)[pool.PLACES // 2]
    assert (same.low, same.high) == (0.0, 0.0)
