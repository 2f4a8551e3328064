from __future__ import annotations

import pytest

from headgate.local.backoff import HEALTHY_S, LONGEST_S, Backoff


def test_waits_double_up_to_the_longest():
    backoff = Backoff()
    waits = [backoff.after(0) for _ in range(8)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_S, LONGEST_S])


def test_a_healthy_life_starts_it_over_and_a_short_one_does_not():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0)
    assert backoff.after(HEALTHY_S - 0.1) == pytest.approx(6.4)
    assert backoff.after(HEALTHY_S) == pytest.approx(0.2)
