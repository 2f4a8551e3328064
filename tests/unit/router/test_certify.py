from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, BinaryRisk
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from numpy.typing import NDArray
from scipy import stats

from headgate.router import certify
from headgate.router.certify import (
    Certified,
    Test,
    binomial_cdf,
    by_slice,
    fixed_sequence,
    in_every_slice,
    least_n,
    most_regrets,
    reach,
    sustainable_rate,
    upper_bound,
)

Array = NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 41)
THRESHOLDS = np.linspace(0.99, 0.01, 50)


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(50, 2000))
def test_a_looser_level_never_gets_a_smaller_lambda(draw: int, n: int) -> None:
    found = fixed_sequence(planted(np.random.default_rng(draw), n))
    indices = [one.index for one in found]
    assert [one.level for one in found] == sorted(one.level for one in found)
    assert indices == sorted(indices)


def mapies_threshold(score: Array, lost: NDArray[np.bool_], level: float, confidence: float) -> float:
    """The last of THRESHOLDS that MAPIE's fixed sequence certifies; its risk is the share kept and lost."""
    risk = BinaryRisk(
        risk_occurrence=lambda y, kept: (kept == 1) & (y == 1),
        risk_condition=lambda y, kept: np.ones(len(y), dtype=bool),
        higher_is_better=False,
    )
    oracle = BinaryClassificationController(
        predict_function=lambda rows: np.stack((1 - rows[:, 0], rows[:, 0]), axis=1),
        risk=risk,
        target_level=level,
        confidence_level=confidence,
        best_predict_param_choice=risk,
        list_predict_params=THRESHOLDS,
        fwer_method="fixed_sequence",
    )
    oracle.calibrate(score[:, None], lost.astype(int))
    return float(oracle.valid_predict_params.min())


def test_mapie_certifies_the_same_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random(3000)
    lost = rng.random(3000) < 0.15 * (1 - score)
    (found,) = fixed_sequence((score[:, None] >= THRESHOLDS) & lost[:, None], (0.05,), delta=0.1)
    assert mapies_threshold(score, lost, 0.05, 0.9) == pytest.approx(THRESHOLDS[found.index])


def test_mapie_certifies_the_same_thresholds_in_every_slice_at_its_part_of_delta(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, slices = rng.random(3000), rng.integers(0, 3, 3000)
    lost = rng.random(3000) < 0.1 * (1 + slices) * (1 - score)
    found = by_slice((score[:, None] >= THRESHOLDS) & lost[:, None], slices, (0.05,), delta=0.1)
    for name, (one,) in found.items():
        rows = slices == name
        expected = mapies_threshold(score[rows], lost[rows], 0.05, 1 - 0.1 / 3)
        assert expected == pytest.approx(THRESHOLDS[one.index])


@pytest.mark.parametrize("level", certify.LEVELS)
def test_a_binomial_test_rejects_where_mapies_p_value_is_within_delta(level: float) -> None:
    counts = np.arange(200)
    p_values = compute_hoeffding_bentkus_p_value(counts / 1000, 1000, level, binary=True)[:, 0]
    for delta in (0.1, 0.01, 0.001):
        assert (counts[p_values <= delta].max(initial=-1)) == most_regrets(1000, level, delta)


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


# --- Losses that are graded, or net of what is won ---

RATES = np.concatenate((np.linspace(0, 0.08, 9), np.linspace(0.0825, 0.12, 16), [0.14, 0.16, 0.2]))
LEVEL, SETS = 0.1, 500
HELD = 1 - DELTA - 2 * (DELTA * (1 - DELTA) / SETS) ** 0.5


def all_or_nothing(rng: np.random.Generator, n: int) -> Array:
    """Losses (n, G) whose means are RATES; at the safe end nothing is lost. So in the worlds below."""
    return (rng.random((n, 1)) < RATES).astype(np.float64)


def graded(rng: np.random.Generator, n: int) -> Array:
    return (rng.random((n, 1)) < 3 * RATES) * rng.beta(1, 2, (n, 1))


def net(rng: np.random.Generator, n: int) -> Array:
    draw, free = rng.random((n, 1)), 0.05 * (RATES > 0)
    return np.asarray((draw < RATES + free).astype(np.float64) - (draw > 1 - free))


World = Callable[[np.random.Generator, int], Array]
WORLDS = [all_or_nothing, graded, net]


def held(certifier: Callable[[Array], int], world: World, n: int, seed: int) -> float:
    """Share of calibration sets whose certified λ, -1 for none, has a true mean within LEVEL."""
    rng = np.random.default_rng(seed)
    indices = np.array([certifier(world(rng, n)) for _ in range(SETS)])
    return float(((indices < 0) | (RATES[indices] <= LEVEL + 1e-9)).mean())


def bets(losses: Array) -> int:
    return max((found.index for found in fixed_sequence(losses, (LEVEL,), DELTA, test="betting")), default=-1)


def within_on_average(losses: Array) -> int:
    return int(np.logical_and.accumulate(losses.mean(axis=0) <= LEVEL).sum()) - 1


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [200, 500, 2000])
def test_a_bet_holds_in_all_but_delta_of_calibration_sets_where_the_naive_threshold_does_not(
    world: World, n: int, seed: int
) -> None:
    assert held(bets, world, n, seed) >= HELD
    assert held(within_on_average, world, n, seed) < HELD


@pytest.mark.parametrize("world", WORLDS)
def test_bets_come_as_near_to_the_level_as_labels_allow(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means = [np.mean([RATES[bets(world(rng, n))] for _ in range(30)]) for n in (200, 1000, 5000)]
    assert means == sorted(means)
    assert means[0] > 0.3 * LEVEL
    assert means[2] > 0.8 * LEVEL


def test_a_bet_on_0_and_1_costs_little_beside_the_exact_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        losses = all_or_nothing(rng, 2000)
        (exact,) = fixed_sequence(losses > 0, (LEVEL,), DELTA)
        assert abs(RATES[exact.index] - RATES[bets(losses)]) <= 0.015


def test_a_bets_certificate_says_what_was_lost_and_claims_no_more_than_its_level(seed: int) -> None:
    losses = graded(np.random.default_rng(seed), 2000)
    (found,) = fixed_sequence(losses, (LEVEL,), DELTA, test="betting")
    last = losses[:, found.index]
    assert found == Certified(LEVEL, found.index, (last > 0).sum(), 2000, DELTA, last.mean(), "betting")
    assert found.loss < found.bound == LEVEL


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 600))
def test_a_looser_level_of_a_bet_never_gets_a_smaller_lambda(draw: int, n: int) -> None:
    found = fixed_sequence(net(np.random.default_rng(draw), n), test="betting")
    indices = [one.index for one in found]
    assert indices == sorted(indices)


def test_a_bet_with_a_window_holds_in_windows(seed: int) -> None:
    """As below: certified on n labels, then held against a fresh window of 300."""
    rng, window = np.random.default_rng(seed), 300
    for world in WORLDS:
        broken = {False: 0, True: 0}
        for _ in range(100):
            losses, later = world(rng, 1000), world(rng, window)
            for kept in (True, False):
                found = fixed_sequence(losses, (LEVEL,), DELTA, window if kept else 0, "betting")
                broken[kept] += any(later[:, one.index].sum() > LEVEL * window for one in found)
        assert broken[True] <= DELTA * 100
        assert broken[False] > DELTA * 100, "without a window the same draws break it: the test can tell"


@pytest.mark.parametrize(
    ("losses", "test"),
    [
        (np.zeros((5, 2)), "binomial"),
        (np.zeros((5, 2), dtype=bool), "betting"),
        (np.full((5, 2), 1.1), "betting"),
        (np.full((5, 2), np.nan), "betting"),
    ],
)
def test_losses_of_another_kind_than_the_tests_are_refused(losses: Array, test: Test) -> None:
    with pytest.raises(ValueError, match="loss"):
        fixed_sequence(losses, test=test)


def test_bets_on_nothing_certify_nothing() -> None:
    assert fixed_sequence(np.zeros((0, 3)), test="betting") == []
    assert fixed_sequence(np.ones((100, 3)), test="betting") == []


# --- Slices ---


def grouped(rng: np.random.Generator, biases: Array, n: int) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Regret (n, G) whose rate is bias * RATES in each group, and the group of every query."""
    groups = rng.integers(0, len(biases), n)
    return rng.random((n, 1)) < biases[groups, None] * RATES, groups


Slicer = Callable[[NDArray[np.bool_], NDArray[np.intp]], dict[int, list[Certified]]]


def sliced(regret: NDArray[np.bool_], groups: NDArray[np.intp]) -> dict[int, list[Certified]]:
    return by_slice(regret, groups, (LEVEL,), DELTA)


def pooled(regret: NDArray[np.bool_], groups: NDArray[np.intp]) -> dict[int, list[Certified]]:
    return dict.fromkeys(range(groups.max() + 1), fixed_sequence(regret, (LEVEL,), DELTA))


def without_a_share(regret: NDArray[np.bool_], groups: NDArray[np.intp]) -> dict[int, list[Certified]]:
    names = range(groups.max() + 1)
    return {one: fixed_sequence(regret[groups == one], (LEVEL,), DELTA) for one in names}


def held_in_all(slicer: Slicer, biases: Array, n: int, seed: int) -> float:
    """Share of calibration sets whose certificates hold in every group at once."""
    rng = np.random.default_rng(seed)
    good = 0
    for _ in range(SETS):
        found = slicer(*grouped(rng, biases, n))
        good += all(
            biases[group] * RATES[one.index] <= LEVEL + 1e-9 for group in found for one in found[group]
        )
    return good / SETS


TWO, EIGHT = np.array([0.4, 1.6]), np.linspace(0.6, 1.4, 8)


def test_where_two_groups_differ_the_pooled_certificate_breaks_and_those_of_slices_hold_in_both(
    seed: int,
) -> None:
    assert held_in_all(pooled, TWO, 1000, seed) < 0.1
    assert held_in_all(sliced, TWO, 1000, seed) >= HELD


def test_certificates_of_eight_slices_hold_together_and_would_not_if_each_took_all_of_delta(
    seed: int,
) -> None:
    assert held_in_all(sliced, EIGHT, 2400, seed) >= HELD
    assert held_in_all(without_a_share, EIGHT, 2400, seed) < HELD


def test_a_slice_is_certified_by_its_own_labels_and_one_with_too_few_is_not(seed: int) -> None:
    regret = planted(np.random.default_rng(seed), 3000)
    groups = np.repeat([7, 8, 9], [2000, 990, 10])
    found = by_slice(regret, groups, (0.05, 0.1), 0.06, window=300)
    assert found[7] == fixed_sequence(regret[:2000], (0.05, 0.1), 0.02, window=300) != []
    assert (found[8] != [], found[9]) == (True, [])
    assert by_slice(regret[:0], groups[:0]) == {}


def test_bets_are_laid_in_every_slice(seed: int) -> None:
    losses = net(np.random.default_rng(seed), 3000)
    found = by_slice(losses, np.arange(3000) % 2, (LEVEL,), DELTA, test="betting")
    assert found[1] == fixed_sequence(losses[1::2], (LEVEL,), DELTA / 2, test="betting") != []


def everywhere(regret: NDArray[np.bool_], groups: NDArray[np.intp]) -> dict[int, list[Certified]]:
    return dict.fromkeys(range(groups.max() + 1), in_every_slice(regret, groups, (LEVEL,), DELTA))


def test_one_lambda_for_all_holds_in_both_of_two_groups_that_differ(seed: int) -> None:
    assert held_in_all(everywhere, TWO, 1000, seed) >= HELD


def test_what_holds_in_every_slice_reaches_as_far_as_the_slice_that_reaches_least(seed: int) -> None:
    regret, groups = grouped(np.random.default_rng(seed), TWO, 4000)
    by_group = by_slice(regret, groups, (LEVEL,), DELTA)
    (found,) = in_every_slice(regret, groups, (LEVEL,), DELTA)
    assert found.index == by_group[1][0].index < by_group[0][0].index
    assert (found.n, found.regrets) == (4000, regret[:, found.index].sum())


def test_a_slice_with_too_few_labels_leaves_nothing_that_holds_in_all() -> None:
    regret = np.zeros((500, 3), dtype=bool)
    assert in_every_slice(regret, np.repeat([0, 1], [250, 250]), (LEVEL,), DELTA)
    assert in_every_slice(regret, np.repeat([0, 1], [497, 3]), (LEVEL,), DELTA) == []


def test_slices_that_do_not_name_every_row_are_refused() -> None:
    with pytest.raises(ValueError, match="one slice for every row"):
        by_slice(np.zeros((5, 2), dtype=bool), np.zeros(4, dtype=int))


# --- How many labels does it take? ---


@pytest.mark.parametrize("level", certify.LEVELS)
@pytest.mark.parametrize("delta", [0.1, 0.005])
def test_least_n_queries_without_a_regret_are_certified_and_one_less_is_not(
    level: float, delta: float
) -> None:
    n = least_n(level, delta)
    assert fixed_sequence(np.zeros((n, 1), dtype=bool), (level,), delta)
    assert not fixed_sequence(np.zeros((n - 1, 1), dtype=bool), (level,), delta)


@pytest.mark.parametrize("window", [0, 300])
def test_what_as_many_labels_again_would_certify_is_what_they_certify(window: int, seed: int) -> None:
    """The outlook is told of the rates; labels that have exactly these rates then certify as many λ."""
    rates = np.linspace(0.0, 0.2, 41)
    seen = np.random.default_rng(seed).random((1_000, 41)) < rates
    for times in (1, 2, 4):
        wanted = reach(seen, times * 1_000, 0.05, window=window)
        found = fixed_sequence(np.tile(seen, (times, 1)), certify.LEVELS, 0.05, window)
        assert [one.index + 1 for one in found if one.level == 0.05] == ([wanted] if wanted else [])


def test_more_labels_never_reach_less_far(seed: int) -> None:
    seen = np.random.default_rng(seed).random((300, 30)) < np.linspace(0.0, 0.2, 30)
    far = [reach(seen, n, 0.05) for n in (10, 300, 1_000, 5_000, 50_000)]
    assert far == sorted(far)
    assert far[0] == 0
    assert far[-1] > far[1]


def test_differences_that_take_more_than_ten_million_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="ten million"):
        least_n(1e-8, 0.05)


# --- Windows ---


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
