"""The ports' twins in memory, for tests and for trying things out: same promises, one process."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

from headgate.adapters.ports import ALONE_S, Role


class MemoryStore:
    """A Store that keeps the `capacity` entries that were used last."""

    def __init__(self, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or it has expired."""
        expires, value = self._entries.get(key, (0.0, b""))
        if self._clock() >= expires:
            self._entries.pop(key, None)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Sets the value and forgets the oldest ones over the capacity."""
        self._entries[key] = (self._clock() + ttl_s, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


class MemoryAnswers:
    """Answers in one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.values: dict[str, tuple[float, bytes]] = {}
        self.leaders: dict[str, tuple[float, bytes]] = {}

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        """The value; where there is none, or it begins with `known`, what is to be done instead."""
        value, led_by = self._live(self.values, key), self._live(self.leaders, key)
        if value and not (known and value.startswith(known)):
            return value
        if led_by is not None and led_by != leader:
            return Role.LED if led_by else Role.ALONE
        self.leaders[key] = self._clock() + lease_s, leader
        return Role.LEADS

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one."""
        return self._live(self.values, key)

    async def put(self, key: str, value: bytes, ttl_s: float, leader: bytes, known: bytes | None) -> bool:
        """Sets the value, if `leader` leads, nothing is there, or it begins with `known`; whether it did."""
        leads = bool(leader) and self._live(self.leaders, key) == leader
        there = self._live(self.values, key)
        if not leads and known is not None and there and not (known and there.startswith(known)):
            return False
        self.values[key] = self._clock() + ttl_s, value
        if leads:
            del self.leaders[key]
        return True

    async def stay(self, key: str, leader: bytes, lease_s: float) -> None:
        """Renews the lease, if it is the leader's still."""
        if self._live(self.leaders, key) == leader:
            self.leaders[key] = self._clock() + lease_s, leader

    async def leave(self, key: str, leader: bytes, *, alone: bool) -> None:
        """The leader has no answer to keep: another one is to lead, or, if `alone`, nobody for a moment."""
        if self._live(self.leaders, key) == leader:
            self.leaders[key] = self._clock() + (ALONE_S if alone else 0.0), b""

    def _live(self, under: dict[str, tuple[float, bytes]], key: str) -> bytes | None:
        expires, value = under.get(key, (0.0, b""))
        return value if self._clock() < expires else None


class MemoryLedger:
    """A Ledger that keeps the last `length` records."""

    def __init__(self, length: int = 100_000) -> None:
        self.records: deque[Mapping[str, str]] = deque(maxlen=length)

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        """Appends all in order."""
        self.records.extend(records)


class MemoryBudget:
    """A Budget that forgets nothing."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    async def reserve(self, account: str, amount: int, most: int) -> bool:
        """Takes the amount unless more than `most` would be taken then; whether it did."""
        if self._taken[account] + amount > most:
            return False
        self._taken[account] += amount
        return True

    async def give_back(self, account: str, amount: int) -> int:
        """Returns what was not spent, a negative amount takes more; what is taken now."""
        self._taken[account] -= amount
        return self._taken[account]

    async def taken(self, account: str) -> int:
        """What was taken so far."""
        return self._taken[account]
