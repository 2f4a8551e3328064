"""The end of a drain: requests that still run are told so, instead of being cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headgate.adapters.status_map import DrainingError

COME_BACK_S: Final = 1.0


class Drain:
    """Knows the requests that run, and can end all of them at once."""

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """For the time of a block: raises DrainingError in it when the drain is over."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._running.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            sentence = "this gateway process stopped before the answer was finished"
            raise DrainingError(sentence, retry_after_s=COME_BACK_S) from None
        finally:
            self._running.discard(limit)

    def end(self) -> None:
        """The drain is over."""
        for limit in self._running:
            limit.reschedule(asyncio.get_running_loop().time())
