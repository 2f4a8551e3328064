from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, BinaryRisk
from numpy.typing import NDArray
from scipy import stats

from headgate.router import certify
from headgate.router.certify import binomial_cdf, fixed_sequence, most_regrets, sustainable_rate, upper_bound

GRID = np.linspace(0.0, 1.0, 41)


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(1e-6, 1 - 1e-6))
def test_binomial_tail_is_scipys(n: int, part: float, p: float) -> None:
    k = round(part * n)
    assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 50, 3000, 10**6])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("delta", [0.1, 0.01, 1e-6])
def test_upper_bound_is_clopper_pearsons(n: int, part: float, delta: float) -> None:
    k = int(part * n)
    expected = 1.0 if k == n else stats.beta.ppf(1 - delta, k + 1, n - k)
    assert upper_bound(k, n, delta) == pytest.approx(expected, rel=1e-8)


def test_no_regret_at_all_has_the_closed_bound() -> None:
    assert upper_bound(0, 300, 0.05) == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-10)


@pytest.mark.parametrize(
    ("k", "n", "delta"), [(-1, 10, 0.05), (11, 10, 0.05), (0, 0, 0.05), (1, 10, 0.0), (1, 10, 1.0)]
)
def test_bounds_of_nothing_are_refused(k: int, n: int, delta: float) -> None:
    with pytest.raises(ValueError, match="a bound needs"):
        upper_bound(k, n, delta)


@pytest.mark.parametrize(
    ("n", "level", "delta"), [(300, 0.01, 0.05), (299, 0.01, 0.05), (298, 0.01, 0.05), (5000, 0.03, 0.01)]
)
def test_most_regrets_is_the_last_count_that_rejects(n: int, level: float, delta: float) -> None:
    k = most_regrets(n, level, delta)
    assert k == -1 or stats.binom.cdf(k, n, level) <= delta
    assert stats.binom.cdf(k + 1, n, level) > delta


def planted(rng: np.random.Generator, n: int) -> NDArray[np.bool_]:
    """Regret (n, G) whose true rate at λ is 0.2 λ², falling back for no one."""
    return rng.random((n, 1)) < 0.2 * GRID**2


def true_risk(index: int) -> float:
    return float(0.2 * GRID[index] ** 2)


def test_certified_levels_are_the_longest_walk_that_passes(seed: int) -> None:
    regret = planted(np.random.default_rng(seed), 3000)
    for found in fixed_sequence(regret, (0.02, 0.05), delta=0.1):
        counts = regret.sum(axis=0)
        p_values = stats.binom.cdf(counts, 3000, found.level)
        assert (p_values[: found.index + 1] <= 0.05).all()
        assert p_values[found.index + 1] > 0.05
        assert found.bound <= found.level
        assert (found.regrets, found.n) == (counts[found.index], 3000)


def test_the_walk_ends_at_the_first_failure_even_if_later_points_would_pass() -> None:
    regret = np.zeros((1000, 5), dtype=bool)
    regret[:200, 2] = True
    (found,) = fixed_sequence(regret, (0.05,), delta=0.05)
    assert found.index == 1


def test_a_level_without_a_safe_end_is_left_out() -> None:
    regret = np.ones((100, 3), dtype=bool)
    assert fixed_sequence(regret, (0.01, 0.5), delta=0.05) == []
    assert fixed_sequence(np.zeros((0, 3), dtype=bool)) == []


@given(st.integers(0, 2**32 - 1), st.integers(50, 2000))
def test_a_looser_level_never_gets_a_smaller_lambda(draw: int, n: int) -> None:
    found = fixed_sequence(planted(np.random.default_rng(draw), n))
    indices = [one.index for one in found]
    assert [one.level for one in found] == sorted(one.level for one in found)
    assert indices == sorted(indices)


def test_mapie_certifies_the_same_thresholds(seed: int) -> None:
    """MAPIE's fixed sequence over thresholds of a score; its risk is the share kept and lost."""
    rng = np.random.default_rng(seed)
    score = rng.random(3000)
    lost = rng.random(3000) < 0.15 * (1 - score)
    thresholds = np.linspace(0.99, 0.01, 50)
    risk = BinaryRisk(
        risk_occurrence=lambda y, kept: (kept == 1) & (y == 1),
        risk_condition=lambda y, kept: np.ones(len(y), dtype=bool),
        higher_is_better=False,
    )
    oracle = BinaryClassificationController(
        predict_function=lambda rows: np.stack((1 - rows[:, 0], rows[:, 0]), axis=1),
        risk=risk,
        target_level=0.05,
        confidence_level=0.9,
        best_predict_param_choice=risk,
        list_predict_params=thresholds,
        fwer_method="fixed_sequence",
    )
    oracle.calibrate(score[:, None], lost.astype(int))
    regret = (score[:, None] >= thresholds) & lost[:, None]
    (found,) = fixed_sequence(regret, (0.05,), delta=0.1)
    assert oracle.valid_predict_params.min() == pytest.approx(thresholds[found.index])


# --- How often does a certificate fail? ---

DRAWS, N, DELTA = 1000, 800, 0.1
ALLOWED = DELTA + 3 * (DELTA * (1 - DELTA) / DRAWS) ** 0.5


def failures(certifier: object, seed: int) -> float:
    """Share of draws in which any certified level is exceeded by the true risk of its λ."""
    rng = np.random.default_rng(seed)
    broken = 0
    for _ in range(DRAWS):
        regret = planted(rng, N)
        broken += any(true_risk(index) > level for level, index in certifier(regret))  # type: ignore[operator]
    return broken / DRAWS


def ours(regret: NDArray[np.bool_]) -> list[tuple[float, int]]:
    return [(found.level, found.index) for found in fixed_sequence(regret, certify.LEVELS, DELTA)]


def without_bonferroni(regret: NDArray[np.bool_]) -> list[tuple[float, int]]:
    found = [fixed_sequence(regret, (level,), DELTA) for level in certify.LEVELS]
    return [(one.level, one.index) for walk in found for one in walk]


def without_bound(regret: NDArray[np.bool_]) -> list[tuple[float, int]]:
    within = [(level, np.flatnonzero(regret.mean(axis=0) <= level)) for level in certify.LEVELS]
    return [(level, int(indices[-1])) for level, indices in within if len(indices)]


def peeking(regret: NDArray[np.bool_]) -> list[tuple[float, int]]:
    """Looks again after every query and keeps the happiest look of each level."""
    counts = regret.cumsum(axis=0)
    best = []
    for level in certify.LEVELS:
        share = DELTA / len(certify.LEVELS)
        most = np.array([most_regrets(n, level, share) for n in range(1, len(regret) + 1)])
        walked = np.logical_and.accumulate(counts <= most[:, None], axis=1).sum(axis=1)
        if walked.max():
            best.append((level, int(walked.max()) - 1))
    return best


def test_certificates_fail_no_oftener_than_delta(seed: int) -> None:
    assert failures(ours, seed) <= ALLOWED


@pytest.mark.parametrize("mutant", [without_bonferroni, without_bound, peeking])
def test_the_simulation_catches_certifiers_that_cheat(seed: int, mutant: object) -> None:
    assert failures(mutant, seed) > ALLOWED


@pytest.mark.parametrize(
    ("level", "window", "delta"), [(0.05, 300, 0.025), (0.03, 300, 0.025), (0.1, 50, 0.1)]
)
def test_a_sustainable_rate_keeps_a_window_within_the_level(level: float, window: int, delta: float) -> None:
    rate, most = sustainable_rate(level, window, delta), round(level * window)
    assert 1 - binomial_cdf(most, window, rate) == pytest.approx(delta, rel=1e-6)
    assert rate == pytest.approx(stats.beta.ppf(delta, most + 1, window - most), rel=1e-9)
    assert rate < level


def test_longer_windows_are_easier_to_keep() -> None:
    rates = [sustainable_rate(0.05, window, 0.025) for window in (100, 300, 1000, 10_000)]
    assert rates == sorted(rates)
    assert rates[-1] < 0.05


def test_a_certificate_with_a_window_holds_in_windows(seed: int) -> None:
    """Simulated from data to traffic: certified on n labels, then held against a fresh window of 300."""
    rng, delta, window = np.random.default_rng(seed), 0.1, 300
    rates = np.linspace(0.0, 0.2, 21)
    broken = {False: 0, True: 0}
    for _ in range(400):
        regret = rng.random((2000, 1)) < rates
        for kept in (True, False):
            (found,) = fixed_sequence(regret, (0.05,), delta, window if kept else 0)
            broken[kept] += rng.binomial(window, rates[found.index]) > 0.05 * window
    assert broken[True] <= delta * 400
    assert broken[False] > delta * 400, "without a window the same draws break it: the test can tell"
