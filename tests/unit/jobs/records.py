"""Records that a test can break: what a run writes, and when it is told what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_jobs import Lease, State, Terms

LEASE = Lease("acme", "j-1", "f-1", b"", "ticket", "", 0.0, 1, 1, 60.0)


class FakeRecords:
    """One job's record, as a run sees it."""

    def __init__(self, lease: Lease | None = LEASE, lease_s: float = 30.0) -> None:
        self.terms = Terms(lease_s=lease_s)
        self.lease = lease
        self.away = False
        self.lost = False
        self.open = asyncio.Event()
        self.open.set()
        self.fences: list[str] = []
        self.writes: list[list[bytes]] = []
        self.told = 0
        self.forgets = False
        """Once: what it is told, and what it was told before."""
        self.renewals = 0
        self.ended: tuple[State, bytes, bytes] | None = None
        self.back: tuple[bytes, float, bool] | None = None

    async def claim(self, tenant: str, name: str, fence: str = "") -> Lease | None:
        self.fences.append(fence)
        self._there()
        return self.lease

    async def held(self, lease: Lease) -> bool:
        return self._there()

    async def renew(self, lease: Lease) -> bool:
        self.renewals += 1
        return self._there()

    async def append(self, lease: Lease, parts: Sequence[bytes], first: int = 0) -> int | None:
        await self.open.wait()
        if not self._there():
            return None
        self.writes.append(list(parts))
        self.told = 0 if self.forgets else first + len(parts)
        self.forgets = False
        return self.told

    async def end(
        self, lease: Lease, state: State, *, answer: bytes = b"", error: bytes = b"", cost_nanousd: int = 0
    ) -> bool:
        if self._there():
            self.ended = (state, answer, error)
        return not self.lost

    async def put_back(self, lease: Lease, error: bytes, pause_s: float, *, counted: bool = True) -> bool:
        if self._there():
            self.back = (error, pause_s, counted)
        return not self.lost

    def _there(self) -> bool:
        if self.away:
            raise SideRoomError("away")
        return not self.lost
