"""Ctrl-C, once and twice: the first ends the work in peace, the second kills."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def interruptible(work: Coroutine[Any, Any, _Result], kill: Callable[[], None]) -> _Result | None:
    """The work's result; None when a signal ended it.

    The first SIGINT, SIGTERM or SIGHUP cancels the work, which then tidies up; any further one calls `kill`.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    hits = 0

    def hit() -> None:
        nonlocal hits
        hits += 1
        if hits == 1:
            task.cancel()
        else:
            kill()

    for number in SIGNALS:
        loop.add_signal_handler(number, hit)
    try:
        return await task
    except asyncio.CancelledError:
        if hits:
            return None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
