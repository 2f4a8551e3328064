from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headgate.router.bundle import Bundle
from headgate.router.cost import mean_costs
from headgate.router.errors import ObjectiveError
from headgate.router.policy import GRID, SETTLED, Policy, resolve
from headgate.router.types import Certificate, Objective, Price

MODELS = ("a", "b", "c")
probabilities = arrays(np.float64, (6, 3), elements=st.floats(0, 1))
spreads = arrays(np.float64, (6, 3), elements=st.floats(0, 0.3))
costs = arrays(np.float64, (6, 3), elements=st.floats(0.001, 3))


def policy(caution: float = 0.0, reluctance: float = 0.0) -> Policy:
    return Policy(MODELS, "c", caution, reluctance, GRID, np.zeros((len(GRID), 3, 2)), 0.5, 0.05)


def one(*numbers: float) -> np.ndarray:
    return np.array([numbers])


@given(probabilities, spreads, costs, st.sampled_from(GRID))
def test_the_choice_has_the_highest_value(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray, lam: float
) -> None:
    family = policy(caution=1.0)
    values = family.values(p, spread, cost, lam)
    chosen = family.choose(p, spread, cost, lam)
    assert (values[np.arange(6), chosen] >= values.max(axis=1) - 1e-9).all()


@given(probabilities, spreads, costs, st.sampled_from(GRID))
def test_one_query_is_given_the_choice_of_the_batch(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray, lam: float
) -> None:
    family = policy(caution=1.0, reluctance=0.3)
    rows = zip(p.tolist(), spread.tolist(), cost.tolist(), strict=True)
    assert [family.choose_one(*row, lam) for row in rows] == family.choose(p, spread, cost, lam).tolist()


@given(probabilities, spreads, costs)
def test_a_larger_lambda_never_chooses_a_dearer_model(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray
) -> None:
    family = policy()
    spent = [cost[np.arange(6), family.choose(p, spread, cost, lam)] for lam in GRID]
    assert (np.diff(np.stack(spent), axis=0) <= 1e-9).all()


@given(probabilities, spreads, costs)
def test_more_caution_never_leaves_the_reference_oftener(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray
) -> None:
    stays = [policy(caution).choose(p, spread, cost, 0.1) == 2 for caution in (0.0, 1.0, 5.0)]
    assert (stays[0] <= stays[1]).all()
    assert (stays[1] <= stays[2]).all()


def test_ties_go_to_the_cheaper() -> None:
    assert policy().choose(one(0.9, 0.9, 0.9), one(0, 0, 0), one(0.5, 0.2, 1.0), 0.0).tolist() == [1]


def test_at_zero_quality_alone_decides_and_at_the_end_cost_alone() -> None:
    p, spread, cost = one(0.2, 0.5, 0.9), one(0, 0, 0), one(0.1, 0.4, 1.0)
    assert policy().choose(p, spread, cost, GRID[0]).tolist() == [2]
    assert policy().choose(p, spread, cost, GRID[-1]).tolist() == [0]


@given(probabilities, spreads, costs)
def test_reluctance_makes_zero_the_safe_end_and_is_gone_when_settled(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray
) -> None:
    plain, reluctant = policy(), policy(reluctance=0.5)
    left = reluctant.choose(p, spread, cost, 0.0) != 2
    assert (p[left].max(axis=1) >= p[left, 2] + 0.5 - 1e-9).all()
    assert not policy(reluctance=1.1).choose(p, spread, cost, 0.0).tolist().count(0)
    settled = (family.choose(p, spread, cost, SETTLED) for family in (plain, reluctant))
    assert np.array_equal(*settled)


def test_the_grid_rises_from_zero() -> None:
    assert GRID[0] == 0.0
    assert list(GRID) == sorted(set(GRID))


PRICES = (Price(10_000_000, 40_000_000), Price(60_000_000, 240_000_000))


def test_a_risk_target_takes_the_largest_level_within_it(bundle: Bundle) -> None:
    for target, level in ((0.02, 0.02), (0.049, 0.02), (0.05, 0.05), (0.9, 0.05)):
        lam, certificate = resolve(bundle.policy, Objective(risk_target=target), bundle.certificates, PRICES)
        assert (certificate.risk_target, lam) == (level, certificate.lam)


def test_a_risk_target_below_every_level_is_an_error_that_names_the_least(bundle: Bundle) -> None:
    with pytest.raises(ObjectiveError, match=r"risk target of 0\.01; ask for 0\.02 or more"):
        resolve(bundle.policy, Objective(risk_target=0.01), bundle.certificates, PRICES)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_larger_budget_never_means_a_larger_lambda(bundle: Bundle, first: int, second: int) -> None:
    lams = [
        resolve(bundle.policy, Objective(budget_nanousd=budget), bundle.certificates, PRICES)[0]
        for budget in sorted((first, second))
    ]
    assert lams[0] >= lams[1]


@given(st.integers(1, 10_000))
def test_a_budget_is_covered_by_the_smallest_level_that_reaches_it(bundle: Bundle, budget: int) -> None:
    lam, certificate = resolve(bundle.policy, Objective(budget_nanousd=budget), bundle.certificates, PRICES)
    assert lam <= certificate.lam
    assert all(c.risk_target >= certificate.risk_target for c in bundle.certificates if c.lam >= lam)


def test_a_budget_means_the_smallest_lambda_that_meets_it(
    bundle: Bundle, make_certificate: Callable[..., Certificate]
) -> None:
    everything = (make_certificate(0.1, 4.0),)
    dear, middle, cheap = 3000, 1900, 700  # all large costs 3,000, half and half 1,850, all small 700
    found = [
        resolve(bundle.policy, Objective(budget_nanousd=budget), everything, PRICES)[0]
        for budget in (dear, middle, cheap, 1)
    ]
    assert found == [0.05, 0.1, 4.0, 4.0], "where quality is held back for safety only, no budget goes"


def test_between_two_lambdas_queries_share_the_rest_of_the_budget(
    bundle: Bundle, make_certificate: Callable[..., Certificate]
) -> None:
    """As large a share of them as the budget pays for takes the dearer λ, and a query always the same
    one."""
    everything, objective = (make_certificate(0.1, 4.0),), Objective(budget_nanousd=1900)
    lams = [
        resolve(bundle.policy, objective, everything, PRICES, place)[0]
        for place in np.linspace(0, 1, 400, endpoint=False)
    ]
    costs = dict(zip(bundle.policy.grid, mean_costs(PRICES, bundle.policy.usage).tolist(), strict=True))
    assert len(set(lams)) == 2
    assert np.mean([costs[lam] for lam in lams]) == pytest.approx(1900, rel=0.005)


def test_a_budget_above_all_that_is_spent_is_shared_by_nobody(
    bundle: Bundle, make_certificate: Callable[..., Certificate]
) -> None:
    everything, plenty = (make_certificate(0.1, 4.0),), Objective(budget_nanousd=10_000)
    assert {resolve(bundle.policy, plenty, everything, PRICES, x)[0] for x in (0.0, 0.5)} == {0.05}


def test_a_budget_follows_todays_prices(bundle: Bundle, make_certificate: Callable[..., Certificate]) -> None:
    everything, half_price = (
        (make_certificate(0.1, 4.0),),
        (Price(5_000_000, 20_000_000), Price(30_000_000, 120_000_000)),
    )
    lam, _ = resolve(bundle.policy, Objective(budget_nanousd=1500), everything, half_price)
    assert lam == 0.05


def test_the_reference_index_follows_the_name() -> None:
    assert policy().reference_index == 2
    assert replace(policy(), reference="a").reference_index == 0


def looking(*resolution: float, caution: float = 0.0, reluctance: float = 0.0) -> Policy:
    return replace(policy(caution, reluctance), resolution=resolution)


resolutions = st.tuples(st.floats(0, 1), st.floats(0, 1), st.just(0.0))


@given(probabilities, spreads, costs, st.sampled_from(GRID), resolutions)
def test_with_looks_too_one_query_is_given_the_choice_of_the_batch(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray, lam: float, resolution: tuple[float, ...]
) -> None:
    family = looking(*resolution, caution=1.0, reluctance=0.3)
    rows = list(zip(p.tolist(), spread.tolist(), cost.tolist(), strict=True))
    assert [family.choose_one(*row, lam) for row in rows] == family.choose(p, spread, cost, lam).tolist()
    taken = family.accept((0,), p, spread, cost, lam)
    assert [family.accept_one((0,), *row, lam) for row in rows] == taken.tolist()


@given(probabilities, spreads, costs, st.sampled_from(GRID))
def test_a_look_that_tells_nothing_changes_no_choice(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray, lam: float
) -> None:
    blind = looking(0.0, 0.0, 0.0).choose(p, spread, cost, lam)
    assert np.array_equal(blind, policy().choose(p, spread, cost, lam))


def test_a_draft_is_worth_writing_where_a_look_at_it_may_save() -> None:
    """Small is right half of the time: alone it is not worth it, but a look often shows when it is."""
    p, spread, cost = one(0.5, 0.0, 0.9), one(0, 0, 0), one(0.05, 9.0, 1.0)
    assert policy().choose(p, spread, cost, 0.1).tolist() == [2]
    assert looking(0.8, 0.0, 0.0).choose(p, spread, cost, 0.1).tolist() == [0]


def test_a_draft_that_is_not_expected_to_save_is_not_written() -> None:
    p, spread, cost = one(0.5, 0.0, 0.9), one(0, 0, 0), one(0.6, 9.0, 1.0)
    assert looking(0.8, 0.0, 0.0).choose(p, spread, cost, 0.01).tolist() == [2]


def test_after_a_look_the_draft_costs_no_more_and_a_hopeless_query_is_not_escalated() -> None:
    cost, spread = one(0.5, 2.0, 1.0), one(0, 0, 0)
    family = looking(0.5, 0.0, 0.0)
    after = [
        family.accept((0,), one(*p), spread, cost, 0.1).tolist() for p in ((0.3, 0, 0.9), (0.1, 0, 0.15))
    ]
    assert after == [[2], [0]]


@pytest.mark.parametrize(
    ("p", "unwritten", "left", "stops"),
    [
        ((0.02, 0.0, 0.95), 0.9, 0.3, True),
        ((0.02, 0.0, 0.95), 0.0, 0.3, False),
        ((0.60, 0.0, 0.95), 0.9, 0.3, False),
        ((0.02, 0.0, 0.03), 0.9, 0.3, False),
        ((0.30, 0.0, 0.95), 0.9, 0.9, False),
        ((0.30, 0.0, 0.95), 0.9, 0.1, True),
        ((0.30, 0.0, 0.95), 0.02, 0.9, True),
    ],
)
def test_a_draft_is_stopped_where_its_end_cannot_win_what_it_costs(
    p: tuple[float, ...], unwritten: float, left: float, stops: bool
) -> None:
    """Hopeless, finished, promising, nobody better, much to be told, little to be told, almost all told."""
    family, cost = looking(0.5, 0.0, 0.0), (0.02, 9.0, 1.0)
    assert family.stops_one(0, p, (0, 0, 0), cost, 0.2, left, unwritten) is stops


@given(probabilities, st.sampled_from(GRID), st.floats(0, 1), st.floats(0, 1))
def test_any_draft_can_be_asked_about(p: np.ndarray, lam: float, left: float, unwritten: float) -> None:
    for row in p.tolist():
        looking(0.5, 0.0, 0.0).stops_one(0, row, (0, 0, 0), (0.1, 0.3, 1.0), lam, left, unwritten)


@given(probabilities, spreads, costs, st.sampled_from(GRID), st.sampled_from([(0,), (0, 1)]))
def test_after_the_last_draft_the_best_answer_is_taken_and_those_at_hand_cost_nothing(
    p: np.ndarray, spread: np.ndarray, cost: np.ndarray, lam: float, hand: tuple[int, ...]
) -> None:
    family = looking(0.5, 0.0 if hand == (0,) else 0.5, 0.0)
    left = cost.copy()
    left[:, hand] = 0.0
    values = family.values(p, spread, left, lam)
    taken = family.accept(hand, p, spread, cost, lam)
    assert (values[np.arange(6), taken] >= values.max(axis=1) - 1e-9).all()


def test_a_second_draft_is_asked_for_where_it_may_spare_the_reference() -> None:
    """The first looks wrong; the second model alone is not worth it, but a look at its draft is."""
    p, spread, cost = one(0.1, 0.5, 0.9), one(0, 0, 0), one(0.05, 0.05, 1.0)
    assert looking(0.5, 0.0, 0.0).accept((0,), p, spread, cost, 0.1).tolist() == [2]
    assert looking(0.5, 0.9, 0.0).accept((0,), p, spread, cost, 0.1).tolist() == [1]
    assert looking(0.5, 0.9, 0.0).accept((0, 1), p, spread, cost, 0.1).tolist() == [2]


def test_of_three_models_quality_may_cost_more_than_the_reference_once_settled() -> None:
    p, spread, cost = one(0.5, 0.0, 0.9), one(0, 0, 0), one(0.6, 9.0, 1.0)
    pair = replace(looking(0.8, 0.0), models=("a", "c"))
    two = [row[:, ::2] for row in (p, spread, cost)]
    for lam, said, of_pair in ((SETTLED / 2, 2, 1), (SETTLED, 0, 1)):
        assert looking(0.8, 0.0, 0.0).choose(p, spread, cost, lam).tolist() == [said]
        assert pair.choose(*two, lam).tolist() == [of_pair]


def test_a_budget_is_kept_where_cost_rises_again_with_lambda() -> None:
    grid = (0.0, *(0.1 * step for step in range(1, 10)))
    spent = np.array((90.0, 80.0, 70.0, 60.0, 50.0, 39.0, 44.0, 38.0, 45.0, 20.0))
    usage = np.zeros((len(grid), 2, 2))
    usage[:, 1, 0] = spent * 1e6
    policy = Policy(("small", "large"), "large", 0.0, 0.5, grid, usage, 0.5, 0.05)
    places = np.linspace(0.0, 1.0, 1000, endpoint=False)
    lams = [policy.lam_for_budget(40, (Price(0, 0), Price(1, 0)), place) for place in places]
    mean = np.mean([spent[grid.index(lam)] for lam in lams])
    assert 39.5 < mean <= 40.05
