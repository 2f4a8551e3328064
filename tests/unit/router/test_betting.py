from __future__ import annotations

from collections.abc import Callable
from math import comb, exp, log, log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headgate.router.betting import Bend, bend, divergence, log_capital, rejects, shuffled, stake, walk

Array = NDArray[np.float64]

LEVEL, DELTA = 0.1, 0.1
DRAWS = 2000
ALLOWED = DELTA + 2 * (DELTA * (1 - DELTA) / DRAWS) ** 0.5


def test_a_column_is_rejected_once_the_players_capital_reaches_its_goal(seed: int) -> None:
    losses = np.random.default_rng(seed).uniform(-1, 1, (60, 40)) * np.linspace(0, 0.6, 40)
    part = stake(60, LEVEL, DELTA)
    for column, rejected in zip(losses.T, rejects(losses, LEVEL, DELTA), strict=True):
        capital, most = 1.0, 0.0
        for loss in column:
            capital += part * capital * (LEVEL - loss) / (1 - LEVEL)
            most = max(most, capital)
        assert rejected == (most >= 1 / DELTA)


@settings(deadline=None)
@given(st.integers(2, 10**6), st.floats(0.001, 0.9), st.floats(1e-6, 0.5))
def test_the_stake_is_kellys_for_the_rate_that_n_queries_can_just_tell(
    n: int, level: float, delta: float
) -> None:
    part = stake(n, level, delta)
    rate = level * (1 - part)
    assert 0 < part < 1
    if part < 1 - 1e-6:
        assert n * divergence(rate, level) == pytest.approx(log(1 / delta), rel=1e-6)
        assert _growth(part, rate, level) >= max(
            _growth(part * 0.99, rate, level), _growth(min(part * 1.01, 1 - 1e-9), rate, level)
        )


def _growth(part: float, rate: float, level: float) -> float:
    return rate * log1p(-part) + (1 - rate) * log1p(part * level / (1 - level))


def test_a_walk_ends_at_the_first_column_that_is_not_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for end in (0, 1, 63, 64, 65, 128, 150):
        losses = (rng.random((300, 150)) < 0.02).astype(np.float64)
        losses[:, end : end + 1] = 0.5
        assert walk(losses, Bend(0.0, LEVEL), DELTA) == end


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5])
def test_levels_of_nothing_and_of_everything_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="a level between 0 and 1"):
        stake(100, level, DELTA)
    with pytest.raises(ValueError, match="a level between 0 and 1"):
        bend(level, 100, DELTA)


# --- How often is a true hypothesis rejected? ---


def binary(rng: np.random.Generator, n: int) -> Array:
    return (rng.random(n) < LEVEL).astype(np.float64)


def graded(rng: np.random.Generator, n: int) -> Array:
    return (rng.random(n) < 4 * LEVEL) * rng.beta(1, 3, n)


def net(rng: np.random.Generator, n: int) -> Array:
    return rng.choice([-1.0, 0.0, 1.0], n, p=[0.15, 0.85 - 0.15 - LEVEL, 0.15 + LEVEL])


WORLDS = [binary, graded, net]


def false_alarms(
    test: Callable[[Array, float, float], NDArray[np.bool_]],
    world: Callable[[np.random.Generator, int], Array],
    n: int,
    seed: int,
) -> float:
    """Share of draws, one a column, in which "the mean is above LEVEL" is rejected though it is not below."""
    losses = world(np.random.default_rng(seed), n * DRAWS).reshape(n, DRAWS)
    return float(test(losses, LEVEL, DELTA).mean())


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [50, 500])
def test_a_mean_at_the_level_is_rejected_no_oftener_than_delta(
    world: Callable[[np.random.Generator, int], Array], n: int, seed: int
) -> None:
    assert false_alarms(rejects, world, n, seed) <= ALLOWED


def stake_of_hindsight(losses: Array, level: float, delta: float) -> NDArray[np.bool_]:
    """Sees the losses first and then takes the stake that would have won most."""
    gains = (level - losses) / (1 - level)
    stakes = np.linspace(0, 0.95, 20)
    best = np.max([np.log1p(part * gains).cumsum(axis=0).max(axis=0) for part in stakes], axis=0)
    return np.asarray(best >= log(1 / delta))


def small_losses_first(losses: Array, level: float, delta: float) -> NDArray[np.bool_]:
    return rejects(np.sort(losses, axis=0), level, delta)


def within_on_average(losses: Array, level: float, delta: float) -> NDArray[np.bool_]:
    return np.asarray(losses.mean(axis=0) <= level)


def stake_on_a_fairer_game(losses: Array, level: float, delta: float) -> NDArray[np.bool_]:
    """Wins more at loss 0 than the hypothesis makes fair."""
    return rejects(losses, level * 1.2, delta)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "mutant", [stake_of_hindsight, small_losses_first, within_on_average, stake_on_a_fairer_game]
)
def test_the_simulation_catches_players_that_cheat(
    mutant: Callable[[Array, float, float], NDArray[np.bool_]],
    world: Callable[[np.random.Generator, int], Array],
    seed: int,
) -> None:
    assert false_alarms(mutant, world, 500, seed) > ALLOWED


def test_the_order_of_the_bets_is_the_same_every_time_and_follows_no_value(seed: int) -> None:
    rows = np.sort(net(np.random.default_rng(seed), 2000))[:, None]
    once = shuffled(rows)
    assert (once == shuffled(rows)).all()
    assert (np.sort(once, axis=0) == rows).all()
    assert abs(np.corrcoef(once[:, 0], np.arange(2000))[0, 1]) < 0.1


def test_rows_that_come_sorted_give_no_more_false_alarms(seed: int) -> None:
    def sorted_then_shuffled(losses: Array, level: float, delta: float) -> NDArray[np.bool_]:
        return rejects(shuffled(np.sort(losses, axis=0)), level, delta)

    assert false_alarms(sorted_then_shuffled, net, 500, seed) <= ALLOWED


# --- Windows ---


@pytest.mark.parametrize(
    ("level", "window", "delta"), [(0.05, 300, 0.025), (0.1, 50, 0.1), (0.02, 3000, 0.05)]
)
def test_for_0_and_1_a_bend_is_chernoffs_bound(level: float, window: int, delta: float) -> None:
    bent = bend(level, window, delta)
    assert bent.apply(np.array([0.0, 1.0])).tolist() == pytest.approx([0.0, 1.0])
    assert 0 < bent.level < level
    assert window * divergence(level, bent.level) == pytest.approx(log(1 / delta), rel=1e-6)


def test_bending_sinks_what_lies_between_0_and_1_and_lifts_no_loss_above_1(seed: int) -> None:
    losses = np.random.default_rng(seed).uniform(-1, 1, 1000)
    bent, within = bend(0.05, 300, 0.025).apply(losses), losses >= 0
    assert (bent[within] <= losses[within]).all()
    assert ((losses[~within] <= bent[~within]) & (bent[~within] < 0)).all()
    assert (Bend(0.0, 0.05).apply(losses) == losses).all()


def test_no_walk_goes_anywhere_for_a_window_that_is_too_short() -> None:
    bent = bend(0.01, 1, 0.05)
    assert walk(np.zeros((1000, 3)), bent, DELTA) == 0


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("window", [100, 1000])
def test_a_window_keeps_within_the_level_where_bent_losses_do(
    world: Callable[[np.random.Generator, int], Array], window: int, seed: int
) -> None:
    """Each world's losses are thinned until their bent mean is just the bend's level."""
    rng = np.random.default_rng(seed)
    pool = world(rng, 100_000)
    bent, straight = (thinned(pool, one) for one in (bend(LEVEL, window, DELTA), Bend(0.0, LEVEL)))
    assert broken_windows(rng, bent, window) <= DELTA
    assert broken_windows(rng, straight, window) > ALLOWED, "a mean at the level is not enough"


def broken_windows(rng: np.random.Generator, pool: Array, window: int) -> float:
    sums = rng.choice(pool, (DRAWS, window)).sum(axis=1)
    return float((sums > LEVEL * window).mean())


def thinned(pool: Array, bent: Bend) -> Array:
    """The pool with as many losses of 0 or of 1 added as bring its bent mean to the bend's level."""
    total, n = bent.apply(pool).sum(), len(pool)
    if total > bent.level * n:
        return np.concatenate((pool, np.zeros(int(total / bent.level - n))))
    return np.concatenate((pool, np.ones(int((bent.level * n - total) / (1 - bent.level)))))


def test_the_mixtures_capital_is_that_of_its_games_played_one_by_one(seed: int) -> None:
    losses = np.random.default_rng(seed).random(200) < 0.03
    parts, shares = np.array([1 - 1e-9, 0.75, 0.5, 0.25]), np.array([0.5, 0.25, 0.125, 0.125])
    for loss in losses:
        shares = shares * (1 + parts * (LEVEL - loss) / (1 - LEVEL))
    assert log_capital(200, int(losses.sum()), LEVEL) == pytest.approx(log(shares.sum()))


def test_the_mixture_is_a_fair_game_at_the_level_and_a_losing_one_above() -> None:
    n = 30
    chances = {
        rate: [comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)] for rate in (LEVEL, 0.2)
    }
    capital = [exp(log_capital(n, k, LEVEL)) for k in range(n + 1)]
    assert np.dot(chances[LEVEL], capital) == pytest.approx(1)
    assert np.dot(chances[0.2], capital) < 1
