"""A loop that was held up is seen, and one that was not stays unsuspected."""

from __future__ import annotations

import asyncio
import time

from structlog.testing import capture_logs

from headgate.adapters.loop_lag import EVERY_S, SLOW_S, TELL_EVERY_S, LoopLag, Told


async def _seen(lags: list[float], longer_than: float) -> None:
    async with asyncio.timeout(30):
        while not any(lag > longer_than for lag in lags):
            await asyncio.sleep(0)


async def test_a_call_that_blocks_is_seen() -> None:
    lags: list[float] = []
    watch = LoopLag(lags.append)
    watch.start()
    time.sleep(EVERY_S + SLOW_S + 0.05)  # noqa: ASYNC251  (this is the fault)
    await _seen(lags, SLOW_S)
    watch.stop()


async def test_an_idle_loop_is_looked_at_again_and_again_until_it_stops() -> None:
    lags: list[float] = []
    watch = LoopLag(lags.append)
    watch.start()
    async with asyncio.timeout(30):
        while len(lags) < 3:
            await asyncio.sleep(0)
    watch.stop()
    assert watch._next is not None
    assert watch._next.cancelled()


def test_a_busy_machine_gets_one_line_for_many_lags() -> None:
    told, slow = Told(), 2 * SLOW_S
    with capture_logs() as lines:
        told(SLOW_S / 2, 0.0)
        assert not lines
        for step in range(50):
            told(slow + step / 1000, step / 10)
        assert [(line["lag_ms"], line["times"]) for line in lines] == [(200, 1)]
        told(0.0, TELL_EVERY_S)
        told(0.0, 3 * TELL_EVERY_S)
    assert [(line["lag_ms"], line["times"]) for line in lines] == [(200, 1), (249, 49)]
