"""The ports on Redis: sessions and sampled texts as plain keys, ledger and samples as streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis

from headgate.adapters.breaker import Breaker
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_answers import RedisAnswers
from headgate.adapters.redis_client import FAILURES, PREFIX, READ_CAP_S, WRITE_CAP_S, Guard, connect
from headgate.adapters.redis_purge import RedisPurge

LEDGER_REPLY_S: Final = 2.0
"""A late reply is waited for, because a record whose reply is not awaited is written again. No answer waits
here, and a server that is away for longer is away."""
LEDGER_CAP_S: Final = 2 * LEDGER_REPLY_S + 0.5
"""Above what trying an idle connection and the reply may take together: nothing is written again while it is
under way."""
LEDGER_STREAM: Final = "headgate:ledger"
SAMPLE_STREAM: Final = "headgate:samples"
SAMPLES: Final = 20_000
"""Facts of samples, and scores, that are kept, approximately: ten certificates' worth in some 10 MB."""
ACCOUNT_S: Final = 2 * 86_400
"""How long an account is remembered: its own day, whatever the time zone, and no longer."""
LEFT_ALONE_S: Final = 1.0
"""How long a sick Redis is left alone between trials: a trial costs one request 25 ms at most."""
POLICY_TRIES: Final = 5
"""At 50 ms each: a slow first connection gets through, and a start is hardly held up."""


class RedisStore:
    """A Store; every key expires."""

    def __init__(self, client: Redis, guard: Guard, write_cap_s: float = WRITE_CAP_S) -> None:
        self._client = client
        self._guard = guard
        self._write_cap_s = write_cap_s

    async def get(self, key: str) -> bytes | None:
        """The value, or None. Raises SideRoomError within 25 ms."""
        return cast("bytes | None", await self._guard.run(lambda: self._client.get(PREFIX + key), READ_CAP_S))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Sets the value. Raises SideRoomError within 100 ms, or the time that was given."""
        expiry_ms = max(1, round(ttl_s * 1000))
        await self._guard.run(lambda: self._client.set(PREFIX + key, value, px=expiry_ms), self._write_cap_s)


class RedisLedger:
    """A Ledger on a stream of about `length` records; the oldest are dropped."""

    def __init__(self, client: Redis, guard: Guard, length: int, stream: str = LEDGER_STREAM) -> None:
        self._client = client
        self._guard = guard
        self._length = length
        self._stream = stream

    async def append(self, records: Sequence[Mapping[str, str]]) -> None:
        """Appends all in one round trip. Raises SideRoomError within 4.5 s."""
        pipeline = self._client.pipeline(transaction=False)
        for record in records:
            fields: dict[Any, Any] = {**record}
            pipeline.xadd(self._stream, fields, maxlen=self._length, approximate=True)
        await self._guard.run(pipeline.execute, LEDGER_CAP_S)


class RedisBudget:
    """A Budget: one counter for each account."""

    def __init__(self, client: Redis, guard: Guard) -> None:
        self._client = client
        self._guard = guard

    async def reserve(self, account: str, amount: int, most: int) -> bool:
        """Takes first and looks then, so that two processes never take the same money. Within 4.5 s."""
        if await self._add(account, amount) <= most:
            return True
        await self._add(account, -amount)
        return False

    async def give_back(self, account: str, amount: int) -> int:
        """Returns what was not spent; what is taken now. Raises SideRoomError within 4.5 s."""
        return await self._add(account, -amount)

    async def taken(self, account: str) -> int:
        """What was taken so far. Raises SideRoomError within 4.5 s."""
        return await self._add(account, 0)

    async def _add(self, account: str, amount: int) -> int:
        pipeline = self._client.pipeline(transaction=True)
        pipeline.incrby(PREFIX + account, amount)
        pipeline.expire(PREFIX + account, ACCOUNT_S)
        return int((await self._guard.run(pipeline.execute, LEDGER_CAP_S))[0])


class Rooms:
    """What one Redis gives the gateway: a store and a ledger, and what shadow sampling keeps.

    Each has its own breaker: a reply in a second is good for the ledger and useless to a request, and no
    request goes without its cache because of a sample.
    """

    def __init__(self, url: str, ledger_length: int) -> None:
        """Connects when it is first used. Raises ValueError for a URL that is none."""
        self._client = connect(url)
        self._patient = connect(url, LEDGER_REPLY_S)
        self.breaker = Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S)
        """The store's."""
        guard = self._guard = Guard(self.breaker)
        self.store = RedisStore(self._client, guard)
        self.answers = RedisAnswers(self._client, guard)
        aside = Guard(Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S))
        self.ledger = RedisLedger(self._patient, aside, ledger_length)
        # Nobody waits for a sample, and one that is dropped for a slow connection was paid for.
        self._unhurried = connect(url, LEDGER_REPLY_S, LEDGER_REPLY_S)
        sampling = Guard(Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S))
        self.samples = RedisLedger(self._unhurried, sampling, SAMPLES, SAMPLE_STREAM)
        self.texts = RedisStore(self._unhurried, sampling, LEDGER_CAP_S)
        self.budget = RedisBudget(self._unhurried, sampling)
        walking = Guard(Breaker(open_s=LEFT_ALONE_S, longest_s=LEFT_ALONE_S))
        self.purging = RedisPurge(self._unhurried, walking)

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
            except FAILURES as error:
                failure = type(error).__name__
            else:
                return str(told.get("maxmemory_policy", ""))
        raise SideRoomError(failure)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()
        await self._patient.aclose()
        await self._unhurried.aclose()
