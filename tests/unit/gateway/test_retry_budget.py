"""Second calls are paid from successes."""

from __future__ import annotations

import pytest

from headgate.gateway.retry_budget import EARNED, MOST, RetryBudget


def test_a_short_failure_is_bridged_and_a_long_one_is_not() -> None:
    budget = RetryBudget()
    assert [budget.spend() for _ in range(int(MOST) + 5)].count(True) == MOST


@pytest.mark.parametrize("failing", [1.0, 0.5, 0.1, 0.02])
def test_second_calls_stay_under_a_tenth(failing: float) -> None:
    """Every request fails with a fixed rhythm; each second call would fail, too."""
    budget, requests, second = RetryBudget(), 5_000, 0
    for number in range(requests):
        if (number * failing) % 1 < failing:
            second += budget.spend()
        else:
            budget.earn()
    assert (requests + second) / requests <= 1.10


def test_what_is_earned_is_bounded() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    assert [budget.spend() for _ in range(100)].count(True) == MOST
    assert EARNED < 0.1
