"""A run's events on their way into its job's stream."""

from __future__ import annotations

import asyncio

from headgate.adapters.redis_jobs import Lease, RedisJobs


class LostError(Exception):
    """The lease is lost: the job was cancelled, or another run has it."""


class Relay:
    """Writes events in order; what comes while one write is out goes with the next, all in one."""

    def __init__(self, jobs: RedisJobs, lease: Lease) -> None:
        self._jobs = jobs
        self._lease = lease
        self._waiting: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, part: bytes) -> None:
        """Never waits. Raises what an earlier write failed with: LostError or SideRoomError."""
        self._waiting.append(part)
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
        self._waiting.clear()
        if self._writing is not None:
            await asyncio.wait({self._writing})
            self._writing.exception()  # Marks it as seen: whoever asked has been told.

    async def _write(self) -> None:
        while self._waiting:
            parts, self._waiting = self._waiting, []
            if not await self._jobs.append(self._lease, parts):
                raise LostError

    @staticmethod
    def _ended(writing: asyncio.Task[None] | None) -> None:
        if writing is not None:
            writing.result()
