"""Single-flight: of those who miss the same answer at the same time, one asks a model and the others wait.

    in this process   who is first flies for all; the others wait for its landing
    among processes   who is first here asks the store: it leads, or waits for the process that does
    landing           an entry: all have it; REPLACE: who led has left, another one leads;
                      ALONE: there is nothing to share, and everybody asks for himself

A leader holds a lease that it renews; a dead one is replaced when that is over. Who waits holds nothing: if
it leaves, nothing changes for anybody else, and if it came first here, another one takes its place.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from enum import Enum
from typing import Final

from headgate.adapters.ports import Answers, SideRoomError
from headgate.gateway.entries import Entry

LEASE_S: Final = 1.5
"""Who waits for a dead leader waits so long; a leader whose process stalls for longer has company."""
RENEWED_AFTER_S: Final = LEASE_S / 5


class Landing(Enum):
    """How a flight ends that brings no entry."""

    REPLACE = "replace"
    ALONE = "alone"


class Flight:
    """Of one digest, in this process. It lands once."""

    def __init__(self, key: str, digest: bytes, leader: bytes) -> None:
        self.key = key
        self.digest = digest
        self.leader = leader
        """The name under which it leads in the store, where it does."""
        self.landed: Entry | Landing | None = None
        self.waiting = 0
        self._bell = asyncio.Event()
        self._lease: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether the store knows it as the leader."""
        return self._lease is not None

    def lead(self, store: Answers) -> None:
        """Renews the lease from now on."""
        self._lease = asyncio.create_task(self._stay(store))

    def land(self, landing: Entry | Landing) -> None:
        """Tells all who wait here; only the first word counts."""
        if self.landed is not None:
            return
        self.landed = landing
        self._bell.set()
        if self._lease is not None:
            self._lease.cancel()

    async def wait(self, until: float) -> Entry | Landing:
        """How it lands; ALONE where it has not by then, an instant of `time.monotonic`."""
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._bell.wait()
        except TimeoutError:
            return Landing.ALONE
        finally:
            self.waiting -= 1
        return self.landed or Landing.ALONE

    async def _stay(self, store: Answers) -> None:
        while True:
            await asyncio.sleep(RENEWED_AFTER_S)
            with suppress(SideRoomError):
                await store.stay(self.key, self.leader, LEASE_S)
