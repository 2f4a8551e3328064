"""The load is open, its arrivals are drawn first, and latency counts from when a request was due."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.faults.load import arrivals, open_loop, percentile


def test_arrivals_come_at_the_rate_and_again_from_the_seed(seed: int) -> None:
    drawn = arrivals(100, 50, seed)
    assert drawn == arrivals(100, 50, seed) != arrivals(100, 50, seed + 1)
    assert drawn == sorted(drawn)
    assert len(drawn) == pytest.approx(5_000, abs=4 * math.sqrt(5_000))


async def test_a_slow_request_holds_no_other_up() -> None:
    async def call(number: int) -> int:
        await asyncio.sleep(2 if number == 0 else 0)
        return number

    samples = await open_loop(call, [0.0, 0.01, 0.02])
    assert [sample.result for sample in samples] == [0, 1, 2]
    assert samples[0].latency >= 2 > samples[1].latency


async def test_a_late_start_counts_as_latency() -> None:
    """A busy generator must not make the system under test look faster than it is."""

    async def call(number: int) -> None:
        if number == 0:
            end = asyncio.get_running_loop().time() + 0.2
            while asyncio.get_running_loop().time() < end:
                pass

    samples = await open_loop(call, [0.0, 0.01])
    assert samples[1].latency >= 0.15


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([3, 1, 2, 4], 0.5) == 2
    assert percentile([3, 1, 2, 4], 0.99) == 4
    assert math.isnan(percentile([], 0.5))
