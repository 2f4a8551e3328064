"""Whom to escalate: a reader that says who is right of all models, beside the draft's own confidence.

As more queries go to the large model, in the order of one or the other, accuracy changes; the area under
that curve is compared, on queries that nothing has seen. Drafts are read of every query.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from headgate.router.bundle import Bundle
from headgate.router.offline import build, courses, curve, frontier
from headgate.router.offline.build import Plan
from headgate.router.offline.curve import Interval
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.train import Recipe
from tests import drafting
from tests.drafting import LARGE, PRICES, SMALL, World

TRAINED, FRESH, DRAWS = 1200, 4000, 300
Order = NDArray[np.float64]
Compare = Callable[[World], Interval]


@pytest.fixture(scope="module")
def ahead(seed: int) -> Compare:
    """By how much the area of learned escalation is above that of the better order by confidence."""

    def compare(world: World) -> Interval:
        plan = Plan(LARGE, PRICES, Recipe(seed=seed))
        bundle = build.loaded(build.build(drafting.drawn(world, seed, TRAINED), plan))
        fresh = drafting.drawn(world, seed + 1, FRESH)
        learned, *confident = orders(bundle, fresh)
        best = max(confident, key=lambda order: area(order, fresh.score))
        areas = ", ".join(f"{area(order, fresh.score):.4f}" for order in (learned, *confident))
        print(f"accuracy {fresh.score.mean(axis=0).round(3).tolist()}; areas {areas}")
        return curve.interval(
            lambda rows: area(learned[rows], fresh.score[rows]) - area(best[rows], fresh.score[rows]),
            FRESH, seed, DRAWS,
        )  # fmt: skip

    return compare


def orders(bundle: Bundle, outcomes: Outcomes) -> tuple[Order, Order, Order]:
    """What is escalated first: by the gain that a reader expects; by its calibrated doubt in the draft
    alone; by the mean log-probability of the draft's tokens."""
    expected = build.estimates(bundle, outcomes)
    small, large = (courses.readings(bundle, outcomes, expected)[0].p_correct[:, m] for m in (0, 1))
    likely = np.array([np.mean(draft.logprobs) for draft in outcomes.drafts[SMALL]])
    return large - small, 1 - small, -likely


def area(order: Order, score: NDArray[np.float64]) -> float:
    """Mean accuracy over all shares of queries that go to the large model."""
    return float(np.trapezoid(frontier.quality(order, score), dx=1 / len(order)))


def test_where_small_is_better_at_its_families_a_learned_reader_beats_confidence(ahead: Compare) -> None:
    found = ahead(drafting.SPECIALIST)
    print(f"ahead by {found.value:.4f} [{found.low:.4f}, {found.high:.4f}], n = {FRESH}")
    assert found.low >= 0.03


def test_where_confidence_is_the_best_order_a_learned_reader_equals_it(ahead: Compare) -> None:
    """Large is right as often whatever is asked: only whether small is right can be known."""
    found = ahead(drafting.STEADY)
    print(f"ahead by {found.value:.4f} [{found.low:.4f}, {found.high:.4f}], n = {FRESH}")
    assert max(abs(found.low), abs(found.high)) <= 0.005


def test_the_worlds_are_what_they_are_said_to_be(seed: int) -> None:
    """Small is better at its two families and large elsewhere; steady large hangs on nothing."""
    special, steady = (drafting.drawn(world, seed, 6000) for world in (drafting.SPECIALIST, drafting.STEADY))
    gains = {family: _gain(special, family) for family in drafting.FIRST_WORDS}
    assert sum(gain < -0.3 for gain in gains.values()) == 2
    assert sum(gain > 0.1 for gain in gains.values()) == 4
    assert special.score[:, 1].mean() > special.score[:, 0].mean()
    of_right = steady.score[steady.score[:, 0] > 0, 1].mean()
    assert of_right == pytest.approx(steady.score[steady.score[:, 0] == 0, 1].mean(), abs=0.05)


def _gain(outcomes: Outcomes, first: str) -> float:
    rows = [row for row, text in enumerate(outcomes.texts) if text.startswith(first)]
    return float((outcomes.score[rows, 1] - outcomes.score[rows, 0]).mean())
