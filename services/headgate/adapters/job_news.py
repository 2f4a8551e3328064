"""Wakes those who watch a job when something happens to it. A hint: what happened stands in the job's stream.

Redis hands a message to who listens just then, and keeps none. So whoever watches reads the stream, and looks
from time to time unasked: where no message comes, he is late and misses nothing.

One connection serves a whole process. It listens for the jobs that are watched and for no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from headgate.adapters.redis_client import FAILURES

AGAIN_S: Final = 1.0
"""Between tries to reach a server that is away, or does not let us listen."""
LEAVE_S: Final = 0.2
QUIET_S: Final = 10.0
"""After that long without a message the connection is tried."""
_NOBODY: Final = "headgate:job-events"
"""No job's, and always listened for: redis-py wants one at least."""


class JobNews:
    """A bell for everyone who watches, rung when the stream of his job has got longer."""

    def __init__(self, client: Redis) -> None:
        """Connects when the first job is watched."""
        self._client = client
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def bell(self, stream: str) -> AsyncIterator[asyncio.Event]:
        """The stream's, for the time of a block; who hears it clears it."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        bell = asyncio.Event()
        self._bells.setdefault(stream, set()).add(bell)
        self._changed.set()
        try:
            yield bell
        finally:
            self._bells[stream].discard(bell)
            if not self._bells[stream]:
                del self._bells[stream]
                self._changed.set()

    async def close(self) -> None:
        """Listens no more."""
        while self._listening is not None and not self._listening.done():
            # More than once, for redis-py has been seen to keep a cancellation to itself.
            self._listening.cancel()
            await asyncio.wait({self._listening}, timeout=LEAVE_S)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as line, asyncio.TaskGroup() as both:
                    await line.subscribe(_NOBODY)
                    both.create_task(self._ask(line))
                    both.create_task(self._hear(line))
            except* FAILURES:
                await asyncio.sleep(AGAIN_S)

    async def _ask(self, line: PubSub) -> None:
        """Has the server tell of what is watched, as often as that changes."""
        asked: set[str] = set()
        while True:
            wanted = set(self._bells)
            if wanted - asked:
                await line.subscribe(*wanted - asked)
            if asked - wanted:
                await line.unsubscribe(*asked - wanted)
            asked = wanted
            await self._changed.wait()
            self._changed.clear()

    async def _hear(self, line: PubSub) -> None:
        while True:
            message = await line.get_message(ignore_subscribe_messages=True, timeout=QUIET_S)
            if message is not None:
                for bell in self._bells.get(message["channel"].decode(), ()):
                    bell.set()
