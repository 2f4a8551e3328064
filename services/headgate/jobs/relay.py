"""A run's events on their way into its job's stream."""

from __future__ import annotations

import asyncio
from typing import Final

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import Lease, RedisJobs

AGAIN_S: Final = 0.2
"""After a write that failed."""
AT_ONCE: Final = 1_000
"""Events of one write: a script takes no more than some thousand arguments."""


class LostError(Exception):
    """The lease is lost: the job was cancelled, or another run has it."""


class Relay:
    """Writes events in order; what comes while one write is out goes with the next, all in one.

    A write that failed is made again until the relay is closed: how long a run may go on without its records
    is for those to say who keep its lease.
    """

    def __init__(self, jobs: RedisJobs, lease: Lease) -> None:
        self._jobs = jobs
        self._lease = lease
        self._events: list[bytes] = []
        self._told = 0
        """So many of them are in the stream."""
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, event: bytes) -> None:
        """Never waits. Raises LostError if an earlier write has found out."""
        self._events.append(event)
        if self._writing is None or self._writing.done():
            self._ended(self._writing)
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Waits until all is written. Raises as `add`."""
        if self._writing is not None:
            # Not awaited itself: who is cancelled while waiting must not cancel the write.
            await asyncio.wait({self._writing})
            self._ended(self._writing)

    async def close(self) -> None:
        """Writes nothing more."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait({self._writing})
            self._writing.exception()  # Marks it as seen: whoever asked has been told.

    async def _write(self) -> None:
        while self._told < len(self._events) and not self._closed:
            events = self._events[self._told : self._told + AT_ONCE]
            try:
                told = await self._jobs.append(self._lease, events, self._told)
            except SideRoomError:
                await asyncio.sleep(AGAIN_S)
                continue
            if told is None:
                raise LostError
            self._told = told

    @staticmethod
    def _ended(writing: asyncio.Task[None] | None) -> None:
        if writing is not None:
            writing.result()
