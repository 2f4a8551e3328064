"""Estimates from shadow samples are right whatever share was seen, and 95 % of their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headgate.router.offline.savings import ENOUGH, Estimate, hajek, horvitz_thompson

REQUESTS = 4_000
SIMULATIONS = 1_000
SHARES = np.array([0.05, 0.4])
LOST = np.array([0.30, 0.05])
"""Quality is lost more often where less is seen: a plain mean of the seen is far off."""
TRUTH = float(LOST.mean())
COVERED = (0.93, 0.97)


def _traffic(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is seen of one draw of the traffic, half of it in a time of a small share."""
    when = rng.integers(0, 2, REQUESTS)
    lost = (rng.random(REQUESTS) < LOST[when]).astype(np.float64)
    seen = rng.random(REQUESTS) < SHARES[when]
    return lost[seen], SHARES[when][seen]


def _simulated(seed: int, estimator: str) -> list[Estimate]:
    rng = np.random.default_rng(seed)
    draws = [_traffic(rng) for _ in range(SIMULATIONS)]
    if estimator == "hajek":
        return [hajek(values, share) for values, share in draws]
    return [horvitz_thompson(values, share, REQUESTS) for values, share in draws]


@pytest.mark.parametrize("estimator", ["hajek", "horvitz_thompson"])
def test_intervals_cover_the_truth_in_95_of_100_simulations(estimator: str, seed: int) -> None:
    found = _simulated(seed, estimator)
    covered = np.mean([one.low <= TRUTH <= one.high for one in found])
    assert COVERED[0] <= covered <= COVERED[1], f"seed {seed}: {covered:.3f} of {SIMULATIONS}"


@pytest.mark.parametrize("estimator", ["hajek", "horvitz_thompson"])
def test_estimates_are_right_in_the_mean_where_a_plain_mean_is_not(estimator: str, seed: int) -> None:
    means = np.array([one.mean for one in _simulated(seed, estimator)])
    error = means.std() / np.sqrt(SIMULATIONS)
    assert abs(means.mean() - TRUTH) < 4 * error + 1e-3
    rng = np.random.default_rng(seed)
    plain = np.mean([_traffic(rng)[0].mean() for _ in range(50)])
    assert abs(plain - TRUTH) > 0.05


def test_with_one_share_the_weighted_mean_is_the_plain_one() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, -1.0])
    found = hajek(values, np.full(5, 0.1))
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(1.96 * values.std(ddof=1) / np.sqrt(5), rel=1e-3)


def test_when_all_is_seen_both_agree(seed: int) -> None:
    values = np.random.default_rng(seed).random(500)
    all_seen = np.ones(500)
    assert hajek(values, all_seen) == horvitz_thompson(values, all_seen, 500) or (
        hajek(values, all_seen).mean == pytest.approx(horvitz_thompson(values, all_seen, 500).mean)
    )


def test_few_telling_values_are_not_sound() -> None:
    values = np.zeros(1_000)
    values[: ENOUGH - 1] = 1
    assert not hajek(values, np.ones(1_000)).sound
    values[ENOUGH - 1] = -1
    assert hajek(values, np.ones(1_000)).sound


@pytest.mark.parametrize(
    ("values", "propensity"),
    [([1.0], [1.0]), ([1.0, 0.0], [1.0]), ([1.0, 0.0], [0.0, 1.0]), ([1.0, 0.0], [1.1, 1.0])],
)
def test_what_has_no_propensity_is_refused(values: list[float], propensity: list[float]) -> None:
    with pytest.raises(ValueError, match="propensity"):
        hajek(np.array(values), np.array(propensity))


def test_fewer_requests_than_were_seen_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer"):
        horvitz_thompson(np.ones(3), np.ones(3), 2)
