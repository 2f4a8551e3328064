"""The breaker opens after failures in a row, lets one trial through, and believes a success at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.breaker import Breaker


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(failures=3, open_s=1, longest_s=4, clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_it_opens_only_after_failures_in_a_row(clock: Clock) -> None:
    breaker = Breaker(failures=3, clock=clock)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.allows()
    assert not breaker.open


def test_while_open_nothing_passes(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now = 0.99
    assert breaker.open
    assert not breaker.allows()


def test_after_the_pause_exactly_one_trial_passes(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now = 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_good_trial_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now = 1.0
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(5))


def test_bad_trials_wait_longer_each_time_up_to_a_limit(clock: Clock) -> None:
    breaker = opened(clock)
    pauses = []
    for _ in range(5):
        began = clock.now
        while not breaker.allows():
            clock.now += 0.25
        pauses.append(clock.now - began)
        breaker.failed()
    assert pauses == [1, 2, 4, 4, 4]


def test_a_burst_of_failures_opens_it_once(clock: Clock) -> None:
    """Calls that were under way when it opened fail later than the one that opened it."""
    breaker = opened(clock)
    clock.now = 0.5
    for _ in range(20):
        breaker.failed()
    clock.now = 1.0
    assert breaker.allows()
    for _ in range(20):
        breaker.failed()
    clock.now = 2.99
    assert not breaker.allows()
    clock.now = 3.0
    assert breaker.allows(), "one failed trial doubles the pause once"


@given(st.lists(st.sampled_from(["ok", "bad", "wait"]), max_size=60))
def test_it_never_stays_shut_for_longer_than_its_limit(steps: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(failures=3, open_s=1, longest_s=4, clock=clock)
    for step in steps:
        if step == "wait":
            clock.now += 0.5
        elif breaker.allows():
            (breaker.succeeded if step == "ok" else breaker.failed)()
    clock.now += 4
    assert breaker.allows()
