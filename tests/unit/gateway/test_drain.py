"""The end of a drain and a deadline reach what runs, as errors of ours, and nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest

from headgate.adapters.status_map import DeadlineError, DrainingError
from headgate.gateway.drain import Drain


def soon(seconds: float = 60.0) -> float:
    return time.perf_counter() + seconds


async def _inside(drain: Drain, begun: asyncio.Event) -> None:
    async with drain.limit(soon()):
        begun.set()
        await asyncio.Event().wait()


async def _begun(drain: Drain) -> asyncio.Task[None]:
    begun = asyncio.Event()
    task = asyncio.create_task(_inside(drain, begun))
    await begun.wait()
    return task


async def test_what_runs_is_told() -> None:
    drain = Drain()
    tasks = [await _begun(drain) for _ in range(3)]
    drain.end()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [DrainingError] * 3


async def test_what_is_over_is_left_alone() -> None:
    drain = Drain()
    async with drain.limit(soon()):
        pass
    drain.end()
    await asyncio.sleep(0)


async def test_a_drain_that_ends_with_a_deadline_leaves_the_deadline_its_word() -> None:
    drain = Drain()

    async def overdue() -> None:
        async with drain.limit(soon(0)):
            await asyncio.Event().wait()

    task = asyncio.create_task(overdue())
    await asyncio.sleep(0)  # It waits, and its time is up …
    await asyncio.sleep(0)  # … which its limit has seen, and the request not yet.
    drain.end()
    with pytest.raises((DeadlineError, DrainingError)):
        await task


async def test_a_cancel_stays_a_cancel() -> None:
    task = await _begun(Drain())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_of_the_request_s_own_is_not_taken_for_a_drain() -> None:
    with pytest.raises(TimeoutError):
        async with Drain().limit(soon()):
            raise TimeoutError


@pytest.mark.parametrize("seconds", [0.05, -1.0])
async def test_a_deadline_ends_what_waits_for_something_else(seconds: float) -> None:
    with pytest.raises(DeadlineError):
        async with asyncio.timeout(5), Drain().limit(soon(seconds)):
            await asyncio.Event().wait()


async def test_who_comes_after_the_end_does_not_get_in() -> None:
    drain = Drain()
    drain.end()
    with pytest.raises(DrainingError):
        async with drain.limit(soon()):
            pytest.fail("it got in")
