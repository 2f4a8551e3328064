"""What gateway processes must hear of kept answers: orders to purge, and what took another's place.

    headgate:purge-orders   a sorted set, scope by instant: all orders that still matter
    headgate:cache-news     a stream: orders and replacements as they happen

A process reads the orders first and follows the stream from where that stood. After a break it knows nothing
of what happened meanwhile: it says so, and begins anew. What it does not understand, say of a later version,
it passes over, and gives up its memory: that may have been an order.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from headgate.adapters.breaker import Breaker
from headgate.adapters.redis_client import FAILURES, PREFIX, Guard

_LOG = structlog.get_logger(__name__)
STREAM: Final = PREFIX + "cache-news"
ORDERS: Final = PREFIX + "purge-orders"
DEAF_AFTER_S: Final = 5.0
"""A process that has not heard from Redis for so long may have missed an order."""
KEPT_S: Final = 34 * 86_400
"""An order outlives the answers that it speaks of: the longest time to live is 30 days and a tenth."""
BLOCK_MS: Final = 1000
AGAIN_S: Final = 0.5
"""Between tries to reach a server that is away."""
WRITE_S: Final = 2.0
"""Who orders waits for it to be taken, though not for ever."""
PAGE: Final = 500
"""Orders or news that are read before others may run."""
_LENGTH: Final = 10_000
"""News that are kept: those of the seconds for which a reader may be late."""

News = Mapping[str, str]


class CacheNews:
    """Tells and hears. News are small mappings of strings."""

    def __init__(
        self,
        client: Redis,
        recall: Callable[[News], None],
        hear: Callable[[News], None],
        lost: Callable[[], None],
    ) -> None:
        """`recall` gets every order that there is, `hear` every piece of news; `lost` is called after both

        a break and what was not understood, which `recall` and `hear` say by a ValueError.

        The client has to wait longer for a reply than a second.
        """
        self._client = client
        self._recall = recall
        self._hear = hear
        self._lost = lost
        self._guard = Guard(Breaker(open_s=AGAIN_S, longest_s=AGAIN_S))
        self._heard_at = -DEAF_AFTER_S
        self._following: asyncio.Task[None] | None = None
        self._logged: set[tuple[str, str]] = set()

    @property
    def hears(self) -> bool:
        """Whether nothing can have been missed for longer than 5 s."""
        return time.monotonic() - self._heard_at < DEAF_AFTER_S

    def start(self) -> None:
        """Begins to listen."""
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Listens no more."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following}, timeout=1)
        await self._client.aclose()

    async def order(self, scope: News) -> float:
        """Takes an order down and tells it; the server's instant, in POSIX seconds. Raises SideRoomError."""
        seconds, micros = await self._guard.run(self._client.time, WRITE_S)
        at = seconds + micros / 1e6
        line = self._client.pipeline(transaction=True)
        line.zremrangebyscore(ORDERS, "-inf", at - KEPT_S)
        line.zadd(ORDERS, {json.dumps(dict(scope), sort_keys=True): at})
        line.expire(ORDERS, KEPT_S)
        self._add(line, {**scope, "at": repr(at)})
        await self._guard.run(line.execute, WRITE_S)
        return at

    async def tell(self, news: News) -> None:
        """Tells all processes. Raises SideRoomError."""
        line = self._client.pipeline(transaction=True)
        self._add(line, news)
        await self._guard.run(line.execute, WRITE_S)

    def _add(self, line: Any, news: News) -> None:
        line.xadd(STREAM, dict(news), maxlen=_LENGTH, approximate=True)
        line.expire(STREAM, KEPT_S)

    async def _follow(self) -> None:
        while True:
            try:
                last = await self._begin()
                while True:
                    last = await self._read(last)
            except FAILURES as error:
                self._log_once("cache news are not heard", because=type(error).__name__)
            except Exception as error:
                # Whatever it is: who listens no more gives what was purged.
                self._log_once("cache news failed", because=type(error).__name__, exc_info=True)
            await asyncio.sleep(AGAIN_S)

    async def _begin(self) -> bytes:
        """Recalls all orders; returns where the stream stood before them."""
        began, first = time.monotonic(), 0
        newest: Any = await self._client.xrevrange(STREAM, count=1)
        # From the newest on: what is added meanwhile moves others to later pages, never to an earlier one.
        while orders := await self._orders(first):
            for told, at in orders:
                self._understand(self._recall, functools.partial(_order, told, at))
            first += len(orders)
        # Told after the orders: until then memory holds what it held, and is not asked.
        self._lost()
        self._heard_at = began
        return bytes(newest[0][0]) if newest else b"0-0"

    async def _orders(self, first: int) -> Any:
        return await self._client.zrevrange(ORDERS, first, first + PAGE - 1, withscores=True)

    async def _read(self, last: bytes) -> bytes:
        told: Any = await self._client.xread({STREAM: last}, block=BLOCK_MS, count=PAGE)
        entries = told[0][1] if told else []
        for at, fields in entries:
            if not self._understand(self._hear, functools.partial(_texts, fields)):
                self._lost()
            last = at
        if len(entries) < PAGE:
            self._heard_at = time.monotonic()
        return last

    def _understand(self, take: Callable[[News], None], read: Callable[[], News]) -> bool:
        try:
            take(read())
        except ValueError:
            self._log_once("cache news of an unknown kind", because="perhaps of a later version")
            return False
        return True

    def _log_once(self, event: str, because: str, **more: Any) -> None:
        if (event, because) not in self._logged:
            self._logged.add((event, because))
            _LOG.warning(event, because=because, **more)


def _order(told: bytes, at: float) -> News:
    try:
        return {**json.loads(told), "at": repr(at)}
    except TypeError:
        raise ValueError("no scope") from None


def _texts(fields: Mapping[bytes, bytes]) -> News:
    return {name.decode(): value.decode() for name, value in fields.items()}
