from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.cli.demo.exercise import Exercise, Marked
from headgate.cli.demo.figures import compute, mix_weight, pgr, wilson
from headgate.client import Attempt, Certificate, Decision

MADE = datetime(2026, 11, 23, tzinfo=UTC)
COST = {"small": 10, "middle": 40, "large": 100}


def decision(model: str, certificate: Certificate | None = None, cache: str = "bypass") -> Decision:
    return Decision(
        request_id="r",
        model=model,
        reason="policy",
        explanation="",
        estimates=(),
        lam=0.0,
        expected_cost_nanousd=0,
        cost_nanousd=COST[model],
        bundle_version="",
        policy_version="",
        certificate=certificate,
        cache_status=cache,
        attempts=(),
        degraded=(),
        overhead_s=0.002,
        out_of_distribution=None,
    )


def mark(model: str, quality: float, certificate: Certificate | None = None) -> Marked:
    return Marked(quality, COST[model], 0.1, decision(model, certificate))


def promise(loss: str) -> Certificate:
    return Certificate("c", loss, 0.05, 0.95, 100, "ab", MADE, None, "large", 300)


def exercise(
    small: list[int], large: list[int], routed: list[str], certificate: Certificate | None = None
) -> Exercise:
    right = {"small": small, "large": large}
    return Exercise(
        models=("small", "large"),
        routed=tuple(mark(model, right[model][number], certificate) for number, model in enumerate(routed)),
        pinned={model: tuple(mark(model, one) for one in right[model]) for model in right},
        failures={},
    )


def test_the_rows_of_a_worked_example():
    figures = compute(exercise([1, 1, 0, 0], [0, 1, 1, 0], ["small", "small", "large", "small"]), seed=1)
    assert (figures.cheapest, figures.dearest) == ("small", "large")
    assert [row.quality for row in figures.always.values()] == [0.5, 0.5]
    assert figures.headgate.quality == 0.75
    assert figures.headgate.cost_nanousd == 130
    assert figures.headgate.shares == {"small": 0.75, "large": 0.25}
    assert figures.models == {"small": (0.75, 2 / 3), "large": (0.25, 1.0)}
    assert figures.mix_weight == pytest.approx(0.25)
    assert figures.random_mix.quality == 0.5
    assert figures.random_mix.cost_nanousd == 130
    assert (figures.oracle.quality, figures.oracle.cost_nanousd) == (0.75, 130)
    assert figures.gain_over_mix[0] == pytest.approx(0.25)
    assert figures.loss_to_dearest[0] == pytest.approx(0.25)
    assert figures.pgr is None
    assert figures.overhead_ms == pytest.approx((2, 2))


def test_the_mix_takes_its_quality_from_both_ends():
    figures = compute(exercise([1, 0, 0, 0], [1, 1, 1, 0], ["small", "large", "small", "large"]), seed=1)
    assert figures.mix_weight == pytest.approx(0.5)
    assert figures.random_mix.quality == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert figures.pgr == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))


def test_the_oracle_prefers_cheap_among_the_right_and_among_the_wrong():
    figures = compute(exercise([1, 0, 0], [1, 1, 0], ["small"] * 3), seed=1)
    assert figures.oracle.shares == {"small": 2 / 3, "large": 1 / 3}
    assert figures.oracle.cost_nanousd == 10 + 100 + 10


def test_regret_counts_only_losses_and_net_balances_them():
    small, large, routed = [1, 0, 0, 1], [0, 1, 0, 1], ["small", "small", "small", "large"]
    regret = compute(exercise(small, large, routed, promise("regret")), seed=1).promise
    assert (regret.covered, regret.loss) == (4, 0.25)
    assert regret.ci95 == wilson(1, 4)
    net = compute(exercise(small, large, routed, promise("net")), seed=1).promise
    assert (net.loss, net.ci95) == (0.0, None)


def test_without_a_certificate_nothing_is_promised():
    found = compute(exercise([1], [1], ["large"]), seed=1).promise
    assert (found.certificate, found.covered, found.loss) == (None, 0, None)


def test_failed_calls_are_wrong_answers_and_cost_nothing():
    taken = exercise([1, 1], [1, 1], ["small", "small"])
    broken = Exercise(
        taken.models, (taken.routed[0], Marked(0.0)), taken.pinned, {"routed: Unavailable: x": 1}
    )
    figures = compute(broken, seed=1)
    assert figures.headgate.quality == 0.5
    assert figures.headgate.cost_nanousd == 10
    assert figures.headgate.shares == {"small": 0.5}


def test_three_models_and_a_dear_one_that_is_not_the_best():
    qualities = {"small": [0, 0], "middle": [1, 1], "large": [1, 0]}
    taken = Exercise(
        models=tuple(qualities),
        routed=(mark("middle", 1), mark("small", 0)),
        pinned={model: tuple(mark(model, one) for one in marks) for model, marks in qualities.items()},
        failures={},
    )
    figures = compute(taken, seed=1)
    assert list(figures.always) == ["small", "middle", "large"]
    assert figures.oracle.shares == {"middle": 1.0}
    assert figures.models["large"] == (0.0, None)


def test_the_interval_of_a_real_gain_excludes_zero_and_that_of_no_gain_does_not(seed):
    rng = random.Random(seed)
    small = [int(rng.random() < 0.6) for _ in range(400)]
    large = [int(rng.random() < 0.9) for _ in range(400)]
    clever = ["small" if right else "large" for right in small]
    blind = ["small" if rng.random() < 0.5 else "large" for _ in range(400)]
    _, (low, _) = compute(exercise(small, large, clever), seed=seed).gain_over_mix
    assert low > 0.1
    value, (low, high) = compute(exercise(small, large, blind), seed=seed).gain_over_mix
    assert low < value < high
    assert high - low < 0.12


def test_the_bootstrap_is_repeatable():
    taken = exercise([1, 0, 1, 0] * 5, [1, 1, 0, 1] * 5, ["small", "large"] * 10)
    assert compute(taken, seed=3).gain_over_mix == compute(taken, seed=3).gain_over_mix


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [(9, 10, (0.5958, 0.9821)), (0, 20, (0.0, 0.1611)), (50, 100, (0.4038, 0.5962))],
)
def test_wilson_against_published_values(successes, n, expected):
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 1000), st.data())
def test_wilson_stays_within_bounds_and_around_the_share(n, data):
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


def test_the_mix_never_extrapolates():
    assert mix_weight(10, 100, 5) == 0
    assert mix_weight(10, 100, 500) == 1
    assert mix_weight(10, 10, 10) == 0


def test_pgr():
    assert pgr(0.6, 0.9, 0.87) == pytest.approx(0.9)
    assert pgr(0.6, 0.6, 0.7) is None


def test_the_other_policies_stand_beside_the_default_one_with_what_their_drafts_wasted():
    base = exercise([1, 0], [1, 1], ["small", "large"])
    escalated = replace(
        decision("large"),
        drafted_by="small",
        attempts=(Attempt("small", 0, 2, 0.1, None, 9), Attempt("large", 0, 3, 0.1, None, 50)),
    )
    cascade = (mark("small", 1), Marked(1, 12, 0.1, escalated))
    figures = compute(replace(base, others={"routing": base.pinned["large"], "cascade": cascade}), seed=1)
    assert list(figures.policies) == ["routing", "cascade", "cascade_early_stop"]
    assert figures.headgate is figures.policies["cascade_early_stop"]
    assert [row.cost_nanousd for row in figures.policies.values()] == [200, 22, 110]
    assert [row.name for row in figures.policies.values()] == ["routing only", "cascade", "Headgate"]
    assert figures.wasted_tokens == {"routing": 0, "cascade": 9, "cascade_early_stop": 0}
