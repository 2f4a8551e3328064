"""How long a request may run: until its deadline, and no longer than the drain.

Both end it with an error of ours, wherever it waits, also where it writes to a caller that does not read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headgate.adapters.status_map import DeadlineError, DrainingError

COME_BACK_S: Final = 1.0
"""Another process has the port by then."""


class Drain:
    """Knows the requests that run, and can end all of them at once."""

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()
        self._over = False

    @asynccontextmanager
    async def limit(self, deadline: float) -> AsyncIterator[None]:
        """Raises DeadlineError in a block at `deadline`, and DrainingError when the drain is over.

        The deadline is an instant of `time.perf_counter`. Who comes when the drain is over does not get in.
        """
        if self._over:
            raise _draining()
        limit = asyncio.timeout(deadline - time.perf_counter())
        try:
            async with limit:
                self._running.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            late = DeadlineError("the deadline passed before the answer was finished")
            raise _draining() if self._over else late from None
        finally:
            self._running.discard(limit)

    def end(self) -> None:
        """The drain is over."""
        self._over = True
        for limit in self._running:
            # One whose own deadline has just passed is ending, and cannot be told another.
            if limit.expired():
                continue
            limit.reschedule(asyncio.get_running_loop().time())


def _draining() -> DrainingError:
    sentence = "this gateway process stopped before the answer was finished"
    return DrainingError(sentence, retry_after_s=COME_BACK_S)
