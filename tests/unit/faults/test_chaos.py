"""Signals come from the seed, in order, each in its period."""

from __future__ import annotations

import time

from tests.faults.chaos import KILL, STOP, Strike, perform, schedule


def test_a_schedule_comes_again_from_its_seed(seed: int) -> None:
    drawn = schedule(seed, 100, ("small", "large"), (KILL, STOP), every_s=2)
    assert drawn == schedule(seed, 100, ("small", "large"), (KILL, STOP), every_s=2)
    assert [int(strike.at / 2) for strike in drawn] == list(range(50))
    assert {strike.victim for strike in drawn} == {"small", "large"}
    assert {strike.signal for strike in drawn} == {KILL, STOP}


async def test_strikes_come_when_they_are_due() -> None:
    began, seen = time.monotonic(), []

    async def strike(one: Strike) -> None:
        assert time.monotonic() - began >= one.at
        seen.append(one)

    strikes = [Strike(0.0, "small", KILL), Strike(0.05, "large", STOP)]
    await perform(strikes, strike)
    assert seen == strikes
