"""The ports on Redis: answers and sessions as plain keys, the ledger as one bounded stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import Guard, connect

READ_CAP_S: Final = 0.025
"""A caller waits for it, and a cache that takes longer saves little."""
WRITE_CAP_S: Final = 0.1
"""Nobody waits for it but the next write."""
LEDGER_STREAM: Final = "headgate:ledger"
_PREFIX: Final = "headgate:"
LEFT_ALONE_S: Final = 1.0
"""How long a sick Redis is left alone between trials: a trial costs one request 25 ms at most."""
POLICY_TRIES: Final = 5


class RedisStore:
    """A Store; every key expires."""

    def __init__(self, client: Redis, guard: Guard) -> None:
        self._client = client
        self._guard = guard

    async def get(self, key: str) -> bytes | None:
        """The value, or None. Raises SideRoomError within 25 ms."""
        return cast(
            "bytes | None", await self._guard.run(lambda: self._client.get(_PREFIX + key), READ_CAP_S)
        )

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Sets the value. Raises SideRoomError within 100 ms."""
        expiry_ms = max(1, round(ttl_s * 1000))
        await self._guard.run(lambda: self._client.set(_PREFIX + key, value, px=expiry_ms), WRITE_CAP_S)


class RedisLedger:
    """A Ledger on a stream of about `length` records; the oldest are dropped."""

    def __init__(self, client: Redis, guard: Guard, length: int) -> None:
        self._client = client
        self._guard = guard
        self._length = length

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        """Appends all in one round trip. Raises SideRoomError within 100 ms."""
        pipeline = self._client.pipeline(transaction=False)
        for record in records:
            fields: dict[Any, Any] = {**record}
            pipeline.xadd(LEDGER_STREAM, fields, maxlen=self._length, approximate=True)
        await self._guard.run(pipeline.execute, WRITE_CAP_S)


class Rooms:
    """What one Redis gives the gateway: a store, a ledger, one breaker for both."""

    def __init__(self, url: str, ledger_length: int) -> None:
        """Connects when it is first used. Raises ValueError for a URL that is none."""
        self._client = connect(url)
        self.breaker = Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S)
        guard = Guard(self.breaker)
        self.store = RedisStore(self._client, guard)
        self.ledger = RedisLedger(self._client, guard, ledger_length)

    async def may_evict_ledger(self) -> str:
        """The server's eviction policy where it may take keys that do not expire; else empty.

        Raises SideRoomError when the server does not say: it is away, or the user may not ask.
        """
        policy = await self._policy()
        return policy if policy.startswith("allkeys-") else ""

    async def _policy(self) -> str:
        """Asked a few times and past the breaker, for a first connection may be slow."""
        for _ in range(POLICY_TRIES):
            try:
                told = await self._client.info("memory")
            except (TimeoutError, RedisError, OSError) as error:
                failure = type(error).__name__
            else:
                return str(told.get("maxmemory_policy", ""))
        raise SideRoomError(failure)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()
