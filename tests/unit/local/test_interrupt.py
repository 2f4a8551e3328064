from __future__ import annotations

import asyncio
import os
import signal

import pytest

from headgate.local.interrupt import interruptible


def hit() -> None:
    os.kill(os.getpid(), signal.SIGINT)


async def test_work_that_ends_by_itself_gives_its_result():
    async def work() -> int:
        return 42

    assert await interruptible(work(), pytest.fail) == 42


async def test_the_first_signal_lets_the_work_tidy_up_and_the_second_kills():
    tidied: list[str] = []
    killed = asyncio.Event()

    async def work() -> None:
        try:
            hit()
            await asyncio.sleep(60)
        finally:
            tidied.append("began")
            hit()
            await asyncio.wait_for(killed.wait(), 20)
            tidied.append("ended")

    assert await interruptible(work(), killed.set) is None
    assert tidied == ["began", "ended"]


async def test_other_cancellations_and_errors_pass():
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await interruptible(fails(), pytest.fail)
    task = asyncio.create_task(interruptible(asyncio.sleep(60), pytest.fail))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
