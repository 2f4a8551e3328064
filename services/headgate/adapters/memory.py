"""The ports' twins in memory, for tests and for trying things out: same promises, one process."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence


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

    async def give_back(self, account: str, amount: int) -> None:
        """Returns what was not spent; a negative amount takes more."""
        self._taken[account] -= amount

    async def taken(self, account: str) -> int:
        """What was taken so far."""
        return self._taken[account]
